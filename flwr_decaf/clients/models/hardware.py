"""Devices and precisions in which a model computes, and loss scaling for fp16."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flwr_decaf import registries
from flwr_decaf.registries import Registry

PRECISIONS: Registry[torch.dtype] = Registry(registries.PRECISIONS)


def choose_device(name: str) -> torch.device:
    """Return the device with a name; "auto" is the GPU if this process sees one, else the CPU.

    An actor of Ray sees only the GPUs assigned by ``client-resources-num-gpus``.

    Raises
    ------
    ValueError
        If there is no such device.
    """
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if is_available(device))
    if not is_available(name):
        raise ValueError(
            f"train.device must be a device that is available to the client; got {name!r}, which "
            "is not; give clients GPUs (--gpus), or set train.device to auto or cpu"
        )
    return torch.device(name)


def is_available(name: str) -> bool:
    """Return whether a device, by PyTorch's name or "auto", is available to this process."""
    gpus: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    return name not in gpus or gpus[name]()


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move the tensors of a batch to a device."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Compute in a lower precision where it is safe; parameters and gradients stay in fp32."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


class LossScaling(NamedTuple):
    """The state of ``torch.amp.GradScaler`` between two rounds.

    Attributes
    ----------
    scale : float
        Factor by which the loss is multiplied, by default 65536; it is halved when gradients
        overflow.
    growth_tracker : int
        Number of steps since the last overflow, by default 0; after 2000, the scale is doubled.
    """

    scale: float = 65536.0
    growth_tracker: int = 0


def computes_in_fp16(model: nn.Module, precision: str) -> bool:
    """Return whether gradients are computed in fp16, due to autocast or to the base's dtype."""
    return precision == "fp16" or any(p.dtype == torch.float16 for p in model.parameters())


def loss_scaler(device: torch.device, scaling: LossScaling, enabled: bool) -> torch.amp.GradScaler:
    """Create a scaler that keeps small gradients representable in fp16; no-op unless enabled."""
    scaler = torch.amp.GradScaler(device.type, init_scale=scaling.scale, enabled=enabled)
    if enabled:
        state = scaler.state_dict()
        scaler.load_state_dict({**state, "_growth_tracker": scaling.growth_tracker})
    return scaler


def scaling_of(scaler: torch.amp.GradScaler) -> LossScaling:
    """Return the state of an enabled scaler."""
    state = scaler.state_dict()
    return LossScaling(state["scale"], state["_growth_tracker"])
