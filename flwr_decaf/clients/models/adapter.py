"""The part of a model that is trained and exchanged: how to initialize, get and set it.

For a PEFT model, this is its adapter; for any other model, the whole model with its batch-norm
statistics.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from flwr_decaf.lora import State, factor_of
from flwr_decaf.seeds import derive_seed

NEW_HEADS = ("classifier", "score")  # transformers' names of heads that are never pretrained
_HEADS = (*NEW_HEADS, "lm_head")
# With bias = "all", PEFT lists the biases of modules that are trained in full more than once.
_TWICE = re.compile(r"\.(original_module|modules_to_save)\.")
_WITHOUT_ADAPTER = re.compile(r"\.lora_(embedding_)?[AB]")  # state dicts omit the adapter's name
RANDOM = (True, "gaussian")  # PEFT's init_lora_weights that do not depend on the base


def train_in_single_precision(model: PeftModel) -> None:
    """Convert all trainable parameters to fp32, whatever the base's dtype; the base is unchanged.

    PEFT does so for LoRA factors, and casts their inputs and outputs. This function adds casts to
    modules that are trained in full (``modules_to_save``): their inputs to fp32, and their outputs
    back to the base's dtype for the frozen layers that follow. Logits stay in fp32.
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
    """Initialize the adapter, or the whole model, as a function of the seed only.

    LoRA's A is drawn as in PEFT, and B = 0; factors that PEFT takes from the base (PiSSA, OLoRA),
    DoRA's norms and trained biases get their first values again. Weights of a new head
    (``NEW_HEADS``) are drawn from a normal distribution whose standard deviation is the model's
    ``initializer_range`` (by default 0.02), and its biases are 0, as in transformers; other modules
    in ``modules_to_save`` get the values of the base. The layers of a whole model are drawn
    as in PyTorch.

    Returns
    -------
    State
        A copy of the new values.
    """
    torch.manual_seed(derive_seed(seed, "adapter"))
    if isinstance(model, PeftModel):
        _draw_adapter(model)
    else:
        for module in model.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return {name: tensor.clone() for name, tensor in get_adapter(model).items()}


def remember_initial(model: PeftModel) -> None:
    """Remember the values that PEFT has derived from the base, for ``initialize_adapter``.

    They cannot be derived again after training, which changes biases, and because PiSSA and OLoRA
    subtract the initial product from the base. The copies are ``model.initial_values``.
    """
    random = model.peft_config[model.active_adapter].init_lora_weights in RANDOM
    model.initial_values = {
        name: tensor.detach().clone()
        for name, tensor in get_adapter(model).items()
        if not (random and factor_of(name)) and not _is_of_module_to_save(model, name)
    }


def _is_of_module_to_save(model: PeftModel, name: str) -> bool:
    saved = (p for p, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper))
    return name.startswith(tuple(f"{path}." for path in saved))


def _draw_adapter(model: PeftModel) -> None:
    name = model.active_adapter
    std = getattr(model.config, "initializer_range", 0.02)
    initial = model.peft_config[name].init_lora_weights
    own = get_adapter(model)
    with torch.no_grad():
        for remembered, value in model.initial_values.items():
            own[remembered].copy_(value)
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer) and initial in RANDOM:
            module.reset_lora_parameters(name, init_lora_weights=initial)
        elif isinstance(module, ModulesToSaveWrapper) and path.endswith(NEW_HEADS):
            _draw_head(module.modules_to_save[name], std)
        elif isinstance(module, ModulesToSaveWrapper):
            module.modules_to_save[name].load_state_dict(module.original_module.state_dict())


def _draw_head(head: nn.Module, std: float) -> None:
    for parameter in head.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=std)
        else:
            nn.init.zeros_(parameter)


def get_adapter(model: nn.Module) -> State:
    """Return the tensors that are trained and exchanged; they share memory with the model.

    Tensors of an adapter have PEFT's names. Integer buffers of a whole model are not included: they
    are batch-norm counters, which are not used, and whose average would not be an integer.
    """
    if isinstance(model, PeftModel):
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
        return {name: x for name, x in state.items() if not _TWICE.search(name)}
    return {name: x for name, x in model.state_dict().items() if x.dtype.is_floating_point}


def digest(model: nn.Module) -> str:
    """Return a hash of the values that are trained and exchanged."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in get_adapter(model).values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def set_adapter(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy values into the adapter, or the whole model, in place.

    LoRA factors take over the ranks of the values, so that one model serves nodes of all ranks. The
    scales of the products do not change.

    Raises
    ------
    ValueError
        If the names differ from the model's.
    """
    own = get_adapter(model)
    if own.keys() != state.keys():
        raise ValueError(
            "an adapter must have the same tensors as the model; "
            f"{min(own.keys() ^ state.keys())} is in only one of them; use the same lora.* and "
            "model.* settings"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            if factor_of(name) and tensor.shape != state[name].shape:
                _replace(model, name, state[name].to(tensor, copy=True))
            else:
                tensor.copy_(state[name])


def _replace(model: nn.Module, name: str, value: Tensor) -> None:
    """Replace a LoRA factor by one of another rank; PEFT's layers do not depend on its shape."""
    adapter = model.active_adapter
    parameter = model.get_parameter(_WITHOUT_ADAPTER.sub(rf"\g<0>.{adapter}", name))
    parameter.data, parameter.grad = value, None
