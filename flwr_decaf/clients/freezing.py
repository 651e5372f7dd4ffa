"""Which LoRA factors of a PEFT model train; known by their names, so PEFT need not be imported."""

from __future__ import annotations

from torch import nn

from flwr_decaf.lora import factor_of


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
