"""What of a model trains and travels: drawing it, getting it out, and putting another one in.

Of a PEFT model that is its adapter; of any other the whole model with its batch-norm statistics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from flwr_decaf.lora import State
from flwr_decaf.seeds import derive_seed

NEW_HEADS = ("classifier", "score")  # transformers' names of heads that no base brings trained
_HEADS = (*NEW_HEADS, "lm_head")


def train_in_single_precision(model: PeftModel) -> None:
    """Put all that trains into fp32, whatever the base's dtype; the base stays as it is.

    PEFT does so for LoRA's factors, and casts at their borders. Modules that train whole
    (``modules_to_save``) get casts of their own: their inputs to fp32, and their outputs back to
    the base's dtype, for the frozen layers that follow. Logits stay in fp32.
    """
    for path, module in model.named_modules():
        if not isinstance(module, ModulesToSaveWrapper):
            continue
        trained = module.modules_to_save[model.active_adapter]
        dtype = next((p.dtype for p in trained.parameters()), torch.float32)
        if dtype == torch.float32:
            continue
        trained.float()
        trained.register_forward_pre_hook(_cast_inputs, with_kwargs=True)
        if not path.endswith(_HEADS):
            trained.register_forward_hook(lambda _, __, output, to=dtype: _cast(output, to))


def _cast_inputs(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    single = torch.float32
    return _cast(args, single), {key: _cast(value, single) for key, value in kwargs.items()}


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    return tuple(_cast(each, dtype) for each in value) if type(value) is tuple else value


def initialize_adapter(model: nn.Module, seed: int) -> State:
    """Draw the adapter, or the whole model, anew: it depends on the seed and on nothing else.

    LoRA's A as PEFT draws it, B = 0; linear layers of a new head (``NEW_HEADS``) normal with the
    model's ``initializer_range`` as standard deviation, biases 0, as transformers draws them;
    other modules that train whole beside an adapter as they came with the base. The layers of a
    whole model as PyTorch draws them.

    Returns
    -------
    State
        A copy of what the model now holds.
    """
    torch.manual_seed(derive_seed(seed, "adapter"))
    if isinstance(model, PeftModel):
        _draw_adapter(model)
    else:
        for module in model.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return {name: tensor.clone() for name, tensor in get_adapter(model).items()}


def _draw_adapter(model: PeftModel) -> None:
    name = model.active_adapter
    spread = getattr(model.config, "initializer_range", 0.02)
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer):
            module.reset_lora_parameters(name, init_lora_weights=True)
        elif isinstance(module, ModulesToSaveWrapper) and path.endswith(NEW_HEADS):
            _draw_head(module.modules_to_save[name], spread)
        elif isinstance(module, ModulesToSaveWrapper):
            module.modules_to_save[name].load_state_dict(module.original_module.state_dict())


def _draw_head(head: nn.Module, spread: float) -> None:
    for parameter in head.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=spread)
        else:
            nn.init.zeros_(parameter)


def get_adapter(model: nn.Module) -> State:
    """Get the tensors that train and travel; they share memory with the model.

    An adapter's have PEFT's names. Integer buffers of a whole model stay where they are: they are
    batch-norm's counters, which nothing reads, and no average of them would be an integer.
    """
    if isinstance(model, PeftModel):
        return dict(get_peft_model_state_dict(model, save_embedding_layers=False))
    return {name: x for name, x in model.state_dict().items() if x.dtype.is_floating_point}


def digest(model: nn.Module) -> str:
    """Name the values of what trains and travels."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in get_adapter(model).values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def set_adapter(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy values into the adapter, or the whole model; nothing is rebuilt.

    Raises
    ------
    ValueError
        If the names are not the model's.
    """
    held = get_adapter(model)
    if held.keys() != state.keys():
        raise ValueError(
            "an adapter must hold the model's own tensors; "
            f"{min(held.keys() ^ state.keys())} is in one only; use the same lora.* and model.* "
            "settings"
        )
    with torch.no_grad():
        for name, tensor in held.items():
            tensor.copy_(state[name])
