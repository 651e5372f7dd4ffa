"""Getting an adapter out of a PEFT model, and putting another one in."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn

from flwr_decaf.lora import State, factor_of


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


def freeze_factors(model: nn.Module, trainable: str) -> None:
    """Let only the named LoRA factors train; dense parameters stay as they are.

    Parameters
    ----------
    model : nn.Module
        A PEFT model.
    trainable : str
        "AB", "A" or "B": the message's ``config["trainable-factors"]``.
    """
    for name, parameter in model.named_parameters():
        factor = factor_of(name)
        if factor is not None:
            parameter.requires_grad_(factor in trainable)
