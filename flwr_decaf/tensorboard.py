"""TensorBoard event files beside metrics.jsonl, for those who watch runs there (an extra)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

_PLACE = ("node", "round", "phase", "elapsed", "process")


def event_writer(path: Path, done: int = -1) -> Callable[[Iterable[Mapping[str, Any]]], None]:
    """Make a listener for ``RunFolder.listeners`` that writes event files to ``path``.

    Each metric's mean over the nodes is a scalar ``<phase>/<metric>``, over rounds; accuracies are
    also written for every node, as ``accuracy-of-nodes/<node>``.

    Parameters
    ----------
    path : Path
        Folder of the event files.
    done : int
        The last round that a resumed run keeps: what earlier files tell of later ones is void.

    Raises
    ------
    ModuleNotFoundError
        If the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "tensorboard = true needs the package tensorboard; it is not installed; install "
            "'flwr-decaf[tensorboard]', or leave the setting out"
        ) from error
    writer = SummaryWriter(str(path), purge_step=done + 1)

    def write(lines: Iterable[Mapping[str, Any]]) -> None:
        known = list(lines)
        for tag, (server_round, value) in _means(known).items():
            writer.add_scalar(tag, value, server_round)
        for line in known:
            if "accuracy" in line:
                tag = f"accuracy-of-nodes/{line['node']}"
                writer.add_scalar(tag, line["accuracy"], line["round"])
        writer.flush()

    return write


def _means(lines: list[Mapping[str, Any]]) -> dict[str, tuple[int, float]]:
    """Average each metric over the nodes of one round and phase, as they come together."""
    if not lines:
        return {}
    first = lines[0]
    numbers = [key for key, value in first.items() if isinstance(value, int | float)]
    metrics = [key for key in numbers if key not in _PLACE and all(key in line for line in lines)]
    return {
        f"{first['phase']}/{key}": (first["round"], statistics.fmean(line[key] for line in lines))
        for key in metrics
    }
