"""Where a model computes, and in which precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flwr_decaf import registries
from flwr_decaf.registries import Registry

PRECISIONS: Registry[torch.dtype] = Registry(registries.PRECISIONS)  # what models compute in


def choose_device(name: str) -> torch.device:
    """Turn a name into a device; "auto" is the GPU that this process sees, else the CPU.

    Ray shows an actor only the GPUs that ``client-resources-num-gpus`` gave it.

    Raises
    ------
    ValueError
        If this machine has no such device.
    """
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if is_available(device))
    if not is_available(name):
        raise ValueError(
            f"train.device must be a device that the client sees; got {name!r}, of which there is "
            "none; give clients GPUs (--gpus), or set train.device to auto or cpu"
        )
    return torch.device(name)


def is_available(name: str) -> bool:
    """Tell whether this process sees such a device, by PyTorch's name or "auto"."""
    gpus: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    return name not in gpus or gpus[name]()


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move a batch."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Compute in a lower precision where that is safe; parameters and gradients stay fp32."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


class LossScaling(NamedTuple):
    """Where ``torch.amp.GradScaler`` stands, from one round to the next.

    Attributes
    ----------
    scale : float
        By which the loss is multiplied: halved when gradients overflow, by default 65536.
    growth_tracker : int
        Steps without an overflow so far; the scale is doubled after 2000.
    """

    scale: float = 65536.0
    growth_tracker: int = 0


def computes_in_fp16(model: nn.Module, precision: str) -> bool:
    """Tell whether gradients pass through fp16: by autocast, or through a base in fp16."""
    return precision == "fp16" or any(p.dtype == torch.float16 for p in model.parameters())


def loss_scaler(device: torch.device, scaling: LossScaling, enabled: bool) -> torch.amp.GradScaler:
    """Scale the loss so that small gradients survive fp16; does nothing unless enabled."""
    scaler = torch.amp.GradScaler(device.type, init_scale=scaling.scale, enabled=enabled)
    if enabled:
        known = scaler.state_dict()
        scaler.load_state_dict({**known, "_growth_tracker": scaling.growth_tracker})
    return scaler


def scaling_of(scaler: torch.amp.GradScaler) -> LossScaling:
    """Read where an enabled scaler stands."""
    state = scaler.state_dict()
    return LossScaling(state["scale"], state["_growth_tracker"])
