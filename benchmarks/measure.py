"""Common parts of the benchmarks: alternating timing, medians, a table, and a JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch
from flwr.serverapp.strategy import Strategy
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
_BUSY = 0.5  # cores; above this, the results are marked as "other-work-ran"


def time_alternately(
    ways: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Time alternative functions in turn, A B A B ..., after one untimed warm-up of each.

    Parameters
    ----------
    ways : mapping
        Functions by name.
    repeats : int
        Number of times that each is timed.
    clock : callable
        By default wall time; ``time.process_time`` leaves out the time of other processes.

    Returns
    -------
    dict of str to float
        Name -> median seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + (repeats > 1)):
        for name, way in ways.items():
            started = clock()
            way()
            if turn or repeats == 1:
                times[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def timed_rounds(strategy: Strategy) -> Callable[[], list[float]]:
    """Record when a strategy's rounds end.

    Returns
    -------
    callable
        Function to call after ``start``; returns the seconds of each round except the first.
    """
    ends: list[float] = []
    aggregate = strategy.aggregate_train

    def noted(*arguments: Any, **named: Any) -> Any:
        result = aggregate(*arguments, **named)
        ends.append(time.perf_counter())
        return result

    strategy.aggregate_train = noted  # type: ignore[method-assign]
    return lambda: [after - before for before, after in pairwise(ends)]


def busy_cores() -> float:
    """Measure for one second how many cores are busy before the benchmark starts."""
    return psutil.cpu_percent(interval=1.0) / 100 * (os.cpu_count() or 1)


def report(name: str, title: str, rows: Sequence[Mapping[str, Any]], busy: float) -> None:
    """Print rows as a table, and write them to ``results/<name>.json``.

    Parameters
    ----------
    name, title : str
        Name of the file, and title of the table.
    rows : sequence of mapping
        Column -> value; None if an alternative was not measured.
    busy : float
        ``busy_cores()`` from before the benchmark.
    """
    table = Table(title=title, caption=f"{busy:.1f} cores busy with other work at the start")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column.replace("-", " "), justify="right")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console(width=max(100, 13 * len(columns))).print(table)
    content = {
        "machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version(),
        "torch": torch.__version__, "cores-busy-at-start": round(busy, 2),
        "other-work-ran": busy > _BUSY, "rows": rows,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf8")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else (
        f"{value:,.0f}" if isinstance(value, float) else str(value)
    )  # fmt: skip
