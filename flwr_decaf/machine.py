"""Whether this machine has what a run asks for, found out without importing torch."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Collection
from pathlib import Path

from flwr_decaf.config import Config
from flwr_decaf.engine import Engine
from flwr_decaf.extras import require_extra


def check_machine(runs: Collection[Config], engine: Engine) -> None:
    """Refuse runs for which a device, a CPU core or a package is missing.

    Raises
    ------
    ValueError
        In one line.
    """
    for run in runs:
        _check_packages(run)
    if "RAY_ADDRESS" not in os.environ:  # a cluster may have other machines than this one
        _check_cores(engine)
        _check_gpus(engine)
        for run in runs:
            _check_device(run.train.device, engine)


def count_gpus() -> int:
    """Count the GPUs that PyTorch would find as "cuda" devices of this process.

    The driver is asked directly: importing torch for this takes seconds.
    """
    if Path("/dev/kfd").exists():  # AMD's driver, which PyTorch reaches by the same name
        import torch

        return torch.cuda.device_count()
    try:
        driver = ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if found else 0


def _check_packages(run: Config) -> None:
    if run.model.quantization != "none":
        require_extra("quantization", f"model.quantization = {run.model.quantization}")
    if run.tensorboard:
        require_extra("tensorboard", "tensorboard = true")


def _check_cores(engine: Engine) -> None:
    cores, wanted = os.cpu_count() or 1, engine.federation.get("client-resources-num-cpus", 1)
    if isinstance(wanted, int) and wanted > cores:
        raise ValueError(
            f"--cpus must be at most the CPU cores of this machine; got {wanted} of {cores}; "
            "give a client fewer"
        )


def _check_gpus(engine: Engine) -> None:
    wanted = float(str(engine.federation.get("client-resources-num-gpus", 0)))
    if wanted and wanted > (there := count_gpus()):
        raise ValueError(
            f"--gpus must be at most the GPUs of this machine; got {wanted:g} of {there}; "
            "leave it out to train on the CPU"
        )


def _check_device(device: str, engine: Engine) -> None:
    if device == "cuda" and not count_gpus():
        problem = "there is none on this machine"
    elif device == "cuda" and "num-supernodes" in engine.federation and not _gives_gpus(engine):
        problem = "which Ray hides from clients that get no share of it; add e.g. --gpus 1"
    elif device == "mps" and (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        problem = "which only Macs with Apple silicon have"
    else:
        return
    raise ValueError(
        f"train.device must be a device that the clients see; got {device!r}, {problem}; "
        "set it to auto or cpu otherwise"
    )


def _gives_gpus(engine: Engine) -> bool:
    return bool(engine.federation.get("client-resources-num-gpus"))
