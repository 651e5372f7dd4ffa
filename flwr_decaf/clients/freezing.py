"""Freezing LoRA factors of a PEFT model by their names, without importing PEFT."""

from __future__ import annotations

from torch import nn

from flwr_decaf.lora import factor_of


def freeze_factors(model: nn.Module, trainable: str, head: bool = True) -> None:
    """Make only the given LoRA factors trainable, with or without the head.

    Parameters
    ----------
    model : nn.Module
        A PEFT model.
    trainable : str
        "AB", "A" or "B": the message's ``config["trainable-factors"]``.
    head : bool
        Whether modules in ``modules_to_save``, such as a classification head, are trainable, by
        default True.
    """
    for name, parameter in model.named_parameters():
        factor = factor_of(name)
        if factor is not None:
            parameter.requires_grad_(factor in trainable)
        elif ".modules_to_save." in name:
            parameter.requires_grad_(head)
