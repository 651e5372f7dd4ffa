"""What an adapter asks of its base, checked before anything is allocated for it."""

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
    """Refuse a rank above what a product of two factors can have, before they are allocated.

    Where PEFT chooses the layers, the rank is compared with the largest linear one.
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
            f"lora.rank must be at most the shorter side of the layers it adapts; got {config.r}, "
            f"and {name} has {limits[name]}; the papers use 2 to 16"
        )


def _shorter_side(layer: torch.nn.Module) -> int:
    if hasattr(layer, "in_features"):  # also where the weight is packed
        return min(int(layer.in_features), int(layer.out_features))  # type: ignore[arg-type]
    first, *others = cast(Tensor, layer.weight).shape
    return min(first, math.prod(others))


def check_modules(base: torch.nn.Module, lora: Lora) -> None:
    """Refuse an encoder, or modules to save, that the base does not have."""
    if lora.encoder != "both" and not hasattr(base, f"{lora.encoder}_model"):
        raise ValueError(
            f"lora.encoder must be both for a model that has but one encoder; got {lora.encoder!r} "
            f"for {type(base).__name__}; it is for CLIP and the like"
        )
    for name in split_list(lora.modules_to_save):
        if name not in (leaves := leaf_names(base, torch.nn.Module)):
            raise ValueError(
                f"lora.modules-to-save must name modules of the model; got {name!r}; it has "
                f"{', '.join(leaves)}"
            )


def leaf_names(base: torch.nn.Module, kind: type[torch.nn.Module]) -> list[str]:
    """List the last parts of the names of a model's modules of a kind."""
    named = base.named_modules()
    found = {name.rsplit(".", 1)[-1] for name, module in named if isinstance(module, kind)}
    return sorted(name for name in found if name and not name.isdecimal())
