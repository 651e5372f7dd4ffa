"""The table that ends a run: every node before and after."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from flwr_decaf.run_folder import RunFolder

Line = Mapping[str, Any]


def run_table(folder: RunFolder) -> Table:
    """Tabulate the first and the last evaluation of every node, and the bytes it sent.

    Parameters
    ----------
    folder : RunFolder
        Of a finished or half-finished run.

    Returns
    -------
    rich.table.Table
        One row a node, then mean, worst and spread (standard deviation over the nodes).

    Raises
    ------
    ValueError
        If the run has not been evaluated yet.
    """
    scores = [line for line in folder.metrics if line["phase"] == "evaluate"]
    if not scores:
        raise ValueError(f"{folder.path} holds no evaluation yet; wait for the first one")
    first, last = min(line["round"] for line in scores), max(line["round"] for line in scores)
    sent = _mean_bytes(folder.metrics)
    settings = folder.run["settings"]
    table = Table(
        title=f"{settings['strategy']} · {settings['topology.name']} · accuracy after round {last}",
        caption=str(folder.path),
    )
    table.add_column("node", justify="right")
    for heading in ("common test", "local test"):
        table.add_column(f"{heading}\nbefore", justify="right")
        table.add_column("\nafter", justify="right")
    table.add_column("MB sent\na round", justify="right")
    rows = [
        _row(node, scores, (first, last), sent)
        for node in sorted({line["node"] for line in scores})
    ]
    for row in rows:
        table.add_row(str(int(row[0])), *_cells(row[1:]))
    table.add_section()
    columns = list(zip(*(row[1:] for row in rows), strict=True))
    table.add_row("mean", *_cells([_apply(statistics.fmean, column) for column in columns]))
    worst = [_apply(min, column) for column in columns[:-1]]
    table.add_row("worst", *_cells(worst))
    table.add_row("spread", *_cells([_apply(statistics.pstdev, column) for column in columns[:-1]]))
    return table


def _row(
    node: int, scores: Sequence[Line], rounds: tuple[int, int], sent: Mapping[int, float]
) -> list[float | None]:
    at = {line["round"]: line for line in scores if line["node"] == node}
    names = ("accuracy", "local-accuracy")
    values = [at.get(when, {}).get(name) for name in names for when in rounds]
    return [node, *values, sent.get(node)]


def _mean_bytes(lines: Sequence[Line]) -> dict[int, float]:
    """Average the megabytes that each node's neighbours were sent a round."""
    sent: dict[int, list[float]] = {}
    for line in lines:
        if "bytes-sent" in line:
            sent.setdefault(line["node"], []).append(line["bytes-sent"] / 1e6)
    return {node: statistics.fmean(values) for node, values in sent.items()}


def _apply(function: Any, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(function(known)) if known else None


def _cells(values: Sequence[float | None]) -> list[str]:
    return ["" if value is None else f"{value:.3f}" for value in values]
