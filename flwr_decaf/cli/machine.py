"""Checks that this machine has or can reach what a run needs, without importing torch."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import platform
import urllib.error
import urllib.request
from collections.abc import Collection
from pathlib import Path

import psutil

from flwr_decaf.checks import refuse_missing_path
from flwr_decaf.cli.engine import Engine
from flwr_decaf.config import Config
from flwr_decaf.data.own_files import path_of
from flwr_decaf.extras import require_extra
from flwr_decaf.registries import DEMO_SETS
from flwr_decaf.text import is_hub_id, split_list

_log = logging.getLogger("flwr")
_BYTES_OF_AN_ENTRY = 32  # of a mixing matrix: four dense copies in double precision
_MINUTES_FOR_500 = 5 / 60  # measured, per training or evaluation round
_HUB_LIMIT = 5.0  # seconds for the Hub to respond


def check_machine(runs: Collection[Config], engine: Engine) -> None:
    """Refuse runs for which a device, a CPU core or a package is missing.

    Raises
    ------
    ValueError
        If something is missing; the message names it in one line.
    """
    for run in runs:
        _check_packages(run)
    if "RAY_ADDRESS" not in os.environ:  # a cluster may have other machines
        _check_cores(engine)
        _check_gpus(engine)
        for run in runs:
            _check_device(run.train.device, engine)
    elif engine.node_data and "num-supernodes" in engine.federation:
        raise ValueError(
            "--node-data must not be set for a simulation on a Ray cluster, whose machines do not "
            "share files; unset RAY_ADDRESS, or start SuperNodes: see docs/deploy.md"
        )


def check_files(runs: Collection[Config]) -> None:
    """Refuse runs whose data set or model is the path of a file or folder that does not exist.

    Raises
    ------
    ValueError
        If there is such a path; the message names it in one line.
    """
    for run in runs:
        refuse_missing_path("data.name", run.data.name)
        if run.model.task != "cnn":
            refuse_missing_path("model.name", run.model.name)


def check_matrix_fits(n: int) -> None:
    """Refuse numbers of nodes whose mixing matrix does not fit into the free memory.

    The matrix is dense, of 8 n^2 bytes; building it and computing its eigenvalues need three more
    copies.

    Raises
    ------
    ValueError
        If the matrix does not fit; the message gives the largest number of nodes that does.
    """
    free = psutil.virtual_memory().available
    if n * n * _BYTES_OF_AN_ENTRY > free:
        raise ValueError(
            "--nodes must be a number whose n x n mixing matrix fits into memory; got "
            f"{n}, which needs {n * n * _BYTES_OF_AN_ENTRY / 1e9:.0f} GB of the {free / 1e9:.0f} "
            f"GB that are free; choose at most {math.isqrt(free // _BYTES_OF_AN_ENTRY)}"
        )


def warn_of_slow_engine(n: int, engine: Engine) -> None:
    """Warn if Flower's own work per round takes minutes, whatever the nodes train.

    Its simulation engine examines all outstanding messages for every node, so its time grows with
    n^2; it takes about 5 s for 500 nodes (see docs/speed.md).
    """
    minutes = _MINUTES_FOR_500 * (n / 500) ** 2
    if "num-supernodes" in engine.federation and minutes > 1:
        _log.warning(
            "--nodes %d: Flower's simulation engine needs about %.0f minutes for each training or "
            "evaluation round, in addition to the training; its time grows with the square of "
            "the number of nodes",
            n,
            minutes,
        )


def check_hub(runs: Collection[Config]) -> None:
    """Use only cached files if the Hugging Face Hub does not respond.

    Otherwise, huggingface_hub would retry each file five times, which takes a minute. The function
    sets ``HF_HUB_OFFLINE`` for this process and its children, so it must be called before
    huggingface_hub is imported.

    Raises
    ------
    ValueError
        If the Hub does not respond, and a model or data set is not cached.
    """
    data = {("data.name", run.data.name) for run in runs if run.data.name not in DEMO_SETS}
    models = {("model.name", run.model.name) for run in runs if run.model.task != "cnn"}
    wanted = [(key, name) for key, name in sorted(data | models) if is_hub_id(name)]
    if "HF_HUB_OFFLINE" in os.environ or not wanted:
        return
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if (problem := _problem_of(endpoint)) is None:
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    for key, name in wanted:
        if not _is_cached(key, name):
            raise ValueError(
                f"{key} must be on this machine or on a hub that can be reached; got {name!r}, but "
                f"{endpoint} cannot be reached ({problem}); check the spelling and the network"
            )
    _log.warning("%s cannot be reached (%s): only cached files are used", endpoint, problem)


def _problem_of(endpoint: str) -> Exception | None:
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        urllib.request.urlopen(request, timeout=_HUB_LIMIT).close()
    except urllib.error.HTTPError:
        return None  # any response will do
    except (OSError, ValueError) as error:
        return error
    return None


def _is_cached(key: str, name: str) -> bool:
    from huggingface_hub import constants

    kind = "models" if key == "model.name" else "datasets"
    prepared = os.environ.get("HF_DATASETS_CACHE", Path(constants.HF_HOME) / "datasets")
    places = [Path(constants.HF_HUB_CACHE) / f"{kind}--{name.replace('/', '--')}"]
    places += [Path(prepared) / name.replace("/", "___")] if kind == "datasets" else []
    return any(place.exists() for place in places)


def count_gpus() -> int:
    """Count the GPUs that PyTorch would find as "cuda" devices in this process.

    The driver is queried directly, because importing torch takes seconds.
    """
    if Path("/dev/kfd").exists():  # AMD's driver, which PyTorch also calls "cuda"
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
    for name in split_list(run.trackers):
        require_extra(name, f'trackers = "{name}"')


def _check_cores(engine: Engine) -> None:
    cores, wanted = os.cpu_count() or 1, engine.federation.get("client-resources-num-cpus", 1)
    if isinstance(wanted, int) and wanted > cores:
        raise ValueError(
            f"--cpus must be at most the number of CPU cores of this machine, {cores}; got "
            f"{wanted}; give each client fewer"
        )


def _check_gpus(engine: Engine) -> None:
    wanted = float(str(engine.federation.get("client-resources-num-gpus", 0)))
    if wanted and wanted > (there := count_gpus()):
        raise ValueError(
            f"--gpus must be at most the number of GPUs of this machine, {there}; got {wanted:g}; "
            "omit it to train on the CPU"
        )


def _check_device(device: str, engine: Engine) -> None:
    if device == "cuda" and not count_gpus():
        problem = "but there is none on this machine"
    elif device == "cuda" and "num-supernodes" in engine.federation and not _gives_gpus(engine):
        problem = "which Ray hides from clients that request no GPU; add e.g. --gpus 1"
    elif device == "mps" and (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        problem = "which only Macs with Apple silicon have"
    else:
        return
    raise ValueError(
        f"train.device must be a device that the clients see; got {device!r}, {problem}; "
        "or set it to auto or cpu"
    )


def _gives_gpus(engine: Engine) -> bool:
    return bool(engine.federation.get("client-resources-num-gpus"))


def node_data_pattern(pattern: str, nodes: int) -> str:
    """Check that a pattern of paths yields a file or folder for every node.

    Returns
    -------
    str
        The absolute pattern; "" for "".

    Raises
    ------
    ValueError
        If several nodes would share a file, or one does not exist.
    """
    if not pattern:
        return ""
    whole = str(Path(pattern).resolve())
    if ("{}" not in pattern and nodes > 1) or "'" in whole:
        raise ValueError(
            "--node-data must have {} in place of a node's position, and no quotation marks; got "
            f"{pattern!r}; write e.g. 'folder/node-{{}}.csv'"
        )
    for place in range(nodes):
        if not Path(path_of(whole, place)).exists():
            raise ValueError(
                f"--node-data must yield a file or folder for each of {nodes} nodes; "
                f"{path_of(whole, place)} does not exist; number them from 0"
            )
    return whole
