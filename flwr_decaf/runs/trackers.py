"""TensorBoard event files, written in addition to metrics.jsonl (an optional extra)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flwr_decaf.extras import require_extra

_PLACE = ("node", "round", "phase", "elapsed", "process")


def event_writer(path: Path, done: int = -1) -> Callable[[Iterable[Mapping[str, Any]]], None]:
    """Make a listener for ``RunFolder.listeners`` that writes event files to ``path``.

    In each round, the mean of each metric over the nodes is written as ``<phase>/<metric>``, and
    the accuracy of each node as ``accuracy-of-nodes/<node>``.

    Parameters
    ----------
    path : Path
        Folder of the event files.
    done : int
        Last round that a resumed run keeps; events of later rounds in earlier files are discarded.
        By default -1: nothing is kept.

    Raises
    ------
    ValueError
        If the package tensorboard is not installed.
    """
    require_extra("tensorboard", "tensorboard = true")
    from torch.utils.tensorboard import SummaryWriter

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
    """Average each metric over the nodes of one round and phase, which arrive together."""
    if not lines:
        return {}
    first = lines[0]
    numbers = [key for key, value in first.items() if isinstance(value, int | float)]
    metrics = [key for key in numbers if key not in _PLACE and all(key in line for line in lines)]
    return {
        f"{first['phase']}/{key}": (first["round"], statistics.fmean(line[key] for line in lines))
        for key in metrics
    }
