"""Drawing a PEFT model's adapter, getting it out, and putting another one in."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from flwr_decaf.lora import State, factor_of
from flwr_decaf.seeds import derive_seed


def initialize_adapter(model: PeftModel, seed: int) -> State:
    """Draw the adapter anew, so that it depends on the seed and on nothing else.

    LoRA's A as PEFT draws it, B = 0; linear layers of a head normal with the model's
    ``initializer_range`` as standard deviation, biases 0, as transformers draws them.

    Returns
    -------
    State
        A copy of the adapter that the model now holds.
    """
    torch.manual_seed(derive_seed(seed, "adapter"))
    name = model.active_adapter
    spread = getattr(model.config, "initializer_range", 0.02)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.reset_lora_parameters(name, init_lora_weights=True)
        elif isinstance(module, ModulesToSaveWrapper):
            for parameter in module.modules_to_save[name].parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=spread)
                else:
                    nn.init.zeros_(parameter)
    return {name: tensor.clone() for name, tensor in get_adapter(model).items()}


def get_adapter(model: PeftModel) -> State:
    """Get the adapter's tensors under PEFT's names; they share memory with the model."""
    return dict(get_peft_model_state_dict(model, save_embedding_layers=False))


def set_adapter(model: PeftModel, state: Mapping[str, Tensor]) -> None:
    """Copy an adapter's values into the model; nothing is rebuilt.

    Raises
    ------
    ValueError
        If the names are not the model's.
    """
    held = get_adapter(model)
    if held.keys() != state.keys():
        raise ValueError(
            "an adapter must hold the model's own tensors; "
            f"{min(held.keys() ^ state.keys())} is in one only; use the same lora.* settings"
        )
    with torch.no_grad():
        for name, tensor in held.items():
            tensor.copy_(state[name])


def freeze_factors(model: nn.Module, trainable: str, head: bool = True) -> None:
    """Let only the named LoRA factors train, and a head that PEFT saves with them or not.

    Parameters
    ----------
    model : nn.Module
        A PEFT model.
    trainable : str
        "AB", "A" or "B": the message's ``config["trainable-factors"]``.
    head : bool
        Whether the modules train that PEFT wraps to save them (``modules_to_save``).
    """
    for name, parameter in model.named_parameters():
        factor = factor_of(name)
        if factor is not None:
            parameter.requires_grad_(factor in trainable)
        elif ".modules_to_save." in name:
            parameter.requires_grad_(head)
