"""Checks that an adapter fits its base, which are made before it is allocated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor

from flwr_decaf.text import split_list

if TYPE_CHECKING:
    from flwr_decaf.config import Lora


def check_rank(base: torch.nn.Module, config: LoraConfig) -> None:
    """Reject a rank that exceeds the shorter side of a layer, before factors are allocated.

    If PEFT chooses the layers, the rank is compared with the largest linear layer.

    Raises
    ------
    ValueError
        If the rank is too large for one of the layers.
    """
    limits = {
        name: _shorter_side(module)
        for name, module in base.named_modules()
        if getattr(module, "weight", None) is not None
        and (
            check_target_module_exists(config, name)
            if config.target_modules
            else isinstance(module, torch.nn.Linear)
        )
    }
    pick = min if config.target_modules else max
    if limits and config.r > limits[name := pick(limits, key=limits.__getitem__)]:
        raise ValueError(
            f"lora.rank must be at most the shorter side of each adapted layer; got {config.r}, "
            f"but {name} has {limits[name]}; the papers use 2 to 16"
        )


def _shorter_side(layer: torch.nn.Module) -> int:
    if hasattr(layer, "in_features"):  # also correct if the weight is packed
        return min(int(layer.in_features), int(layer.out_features))  # type: ignore[arg-type]
    first, *others = cast(Tensor, layer.weight).shape
    return min(first, math.prod(others))


def check_modules(base: torch.nn.Module, lora: Lora) -> None:
    """Reject an encoder, or modules to save, that the base does not have.

    Raises
    ------
    ValueError
        If the base does not have one of them.
    """
    if lora.encoder != "both" and not hasattr(base, f"{lora.encoder}_model"):
        raise ValueError(
            f"lora.encoder must be both for a model with a single encoder; got {lora.encoder!r} "
            f"for {type(base).__name__}; set lora.encoder to both, or use a model such as CLIP"
        )
    for name in split_list(lora.modules_to_save):
        if name not in (leaves := leaf_names(base, torch.nn.Module)):
            raise ValueError(
                f"lora.modules-to-save must name modules of the model; got {name!r}; it has "
                f"{', '.join(leaves)}"
            )


def leaf_names(base: torch.nn.Module, kind: type[torch.nn.Module]) -> list[str]:
    """List the last components of the names of all modules of a type."""
    named = base.named_modules()
    found = {name.rsplit(".", 1)[-1] for name, module in named if isinstance(module, kind)}
    return sorted(name for name in found if name and not name.isdecimal())
