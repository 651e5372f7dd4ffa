"""Checks that an adapter fits its base, which are made before it is allocated."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, cast

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn

from flwr_decaf.text import split_list

if TYPE_CHECKING:
    from flwr_decaf.config import Lora


def check_rank(base: nn.Module, config: LoraConfig) -> None:
    """Reject a rank that exceeds the shorter side of a layer, before factors are allocated.

    If PEFT chooses the layers, the rank is compared with the largest linear layer.

    Raises
    ------
    ValueError
        If the rank is too large for one of the layers, or a pattern matches none of them.
    """
    layers = _adapted(base, config)
    for key, patterns in (("rank", config.rank_pattern), ("alpha", config.alpha_pattern)):
        for pattern in patterns:
            if not any(_matches(pattern, name) for name in layers):
                raise ValueError(
                    f"lora.{key}-pattern must match adapted layers; got {pattern!r}, which matches "
                    f"none; write e.g. {next(iter(layers), 'the name of a layer')!r} or the end of "
                    "a name"
                )
    room = {name: _shorter_side(layer) - _rank(name, config) for name, layer in layers.items()}
    pick = min if config.target_modules else max
    if room and room[name := pick(room, key=room.__getitem__)] < 0:
        raise ValueError(
            "lora.rank must be at most the shorter side of each adapted layer; got "
            f"{_rank(name, config)}, but {name} has {_shorter_side(layers[name])}; the papers use "
            "2 to 16"
        )


def _adapted(base: nn.Module, config: LoraConfig) -> dict[str, nn.Module]:
    """List the layers that get an adapter, or all linear ones if PEFT chooses."""
    return {
        name: module
        for name, module in base.named_modules()
        if getattr(module, "weight", None) is not None
        and (
            check_target_module_exists(config, name)
            if config.target_modules
            else isinstance(module, nn.Linear)
        )
    }


def _rank(name: str, config: LoraConfig) -> int:
    found = (rank for key, rank in config.rank_pattern.items() if _matches(key, name))
    return int(next(found, config.r))


def _matches(pattern: str, name: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", name) is not None  # as in PEFT


def check_initialization(base: nn.Module, config: LoraConfig) -> None:
    """Reject to take factors from weights that are not plain matrices of linear layers.

    PEFT subtracts the initial product from them, which rounds quantized weights, and its OLoRA is
    wrong for the transposed weights of ``Conv1D``.

    Raises
    ------
    ValueError
        If one of the adapted layers is not linear, or is quantized.
    """
    if config.init_lora_weights in (True, "gaussian"):
        return
    for name, layer in _adapted(base, config).items():
        if isinstance(layer, nn.Linear) and layer.weight.is_floating_point():
            continue
        raise ValueError(
            "lora.init-lora-weights must be default or gaussian unless all adapted layers are "
            f"linear and not quantized; got {config.init_lora_weights!r}, but {name} is a "
            f"{type(layer).__name__}; choose other lora.target-modules, or set model.quantization "
            "to none"
        )


def check_biases(base: nn.Module, config: LoraConfig) -> None:
    """Reject to train biases in half precision.

    Raises
    ------
    ValueError
        If biases are to be trained, and one of them is not in fp32.
    """
    for name, parameter in base.named_parameters() if config.bias != "none" else ():
        if name.endswith("bias") and parameter.dtype != torch.float32:
            raise ValueError(
                f"lora.bias must be none if the base is not in fp32; got {config.bias!r}, but "
                f"{name} is in {str(parameter.dtype).removeprefix('torch.')}; set model.dtype to "
                "fp32, and train.precision to bf16 if memory is short"
            )


def _shorter_side(layer: nn.Module) -> int:
    if hasattr(layer, "in_features"):  # also correct if the weight is packed
        return min(int(layer.in_features), int(layer.out_features))  # type: ignore[arg-type]
    first, *others = cast(Tensor, layer.weight).shape
    return min(first, math.prod(others))


def check_modules(base: nn.Module, lora: Lora) -> None:
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
        if name not in (leaves := leaf_names(base, nn.Module)):
            raise ValueError(
                f"lora.modules-to-save must name modules of the model; got {name!r}; it has "
                f"{', '.join(leaves)}"
            )


def leaf_names(base: nn.Module, kind: type[nn.Module]) -> list[str]:
    """List the last components of the names of all modules of a type."""
    named = base.named_modules()
    found = {name.rsplit(".", 1)[-1] for name, module in named if isinstance(module, kind)}
    return sorted(name for name in found if name and not name.isdecimal())
