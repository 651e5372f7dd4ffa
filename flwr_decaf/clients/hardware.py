"""Where a model computes, and in which precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from flwr_decaf.registries import PRECISIONS


def choose_device(name: str) -> torch.device:
    """Turn a name into a device; "auto" is the GPU that this process sees, else the CPU.

    Ray shows an actor only the GPUs that ``client-resources-num-gpus`` gave it.

    Raises
    ------
    ValueError
        If this machine has no such device.
    """
    available: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if name == "auto":
        name = next((device for device, there in available.items() if there()), "cpu")
    if name in available and not available[name]():
        raise ValueError(
            f"train.device must be a device that the client sees; got {name!r}, of which there is "
            "none; give clients GPUs (--gpus), or set train.device to auto or cpu"
        )
    return torch.device(name)


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move a batch."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Compute in a lower precision where that is safe; parameters and gradients stay fp32."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def loss_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Scale the loss so that small gradients survive fp16; does nothing in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
