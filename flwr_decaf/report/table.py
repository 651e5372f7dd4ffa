"""The tables that end a run: every node before and after, or every method of a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.table import Table

from flwr_decaf.report.runs import evaluated, summarize
from flwr_decaf.run_folder import RunFolder

Line = Mapping[str, Any]

HEADINGS = {
    "seeds": "seeds",
    "accuracy": "accuracy",
    "worst": "worst node",
    "spread": "spread",
    "local-accuracy": "local test",
    "average-accuracy": "average model",
    "consensus-distance": "consensus distance",
    "megabytes": "MB per node",
    "minutes": "minutes",
}


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
    evaluated([folder])
    scores = [line for line in folder.metrics if line["phase"] == "evaluate"]
    rounds = min(line["round"] for line in scores), max(line["round"] for line in scores)
    sent = _mean_bytes(folder.metrics)
    table = _headings(folder, last=rounds[1])
    rows = {
        node: [*_accuracies(node, scores, rounds), sent.get(node)]
        for node in sorted({line["node"] for line in scores})
    }
    for node, row in rows.items():
        table.add_row(str(node), *_cells(row))
    table.add_section()
    columns = list(zip(*rows.values(), strict=True))
    for name, summary in (
        ("mean", statistics.fmean),
        ("worst", min),
        ("spread", statistics.pstdev),
    ):
        # The bytes have a mean, but no worst and no spread that would say anything.
        summarised = columns if name == "mean" else columns[:-1]
        table.add_row(name, *_cells([_apply(summary, column) for column in summarised]))
    return table


def _headings(folder: RunFolder, last: int) -> Table:
    settings = folder.run["settings"]
    table = Table(
        title=f"{settings['strategy']} · {settings['topology.name']} · accuracy after round {last}"
    )
    table.add_column("node", justify="right")
    for heading in ("common test", "local test"):
        table.add_column(f"{heading}\nbefore", justify="right")
        table.add_column("\nafter", justify="right")
    table.add_column("MB sent\na round", justify="right")
    return table


def _accuracies(node: int, scores: Sequence[Line], rounds: tuple[int, int]) -> list[float | None]:
    at = {line["round"]: line for line in scores if line["node"] == node}
    names = ("accuracy", "local-accuracy")
    return [at.get(when, {}).get(name) for name in names for when in rounds]


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


def comparison_table(folders: Sequence[RunFolder]) -> Table:
    """Tabulate several runs, one row a method, means over its seeds.

    Raises
    ------
    ValueError
        If none of the runs has been evaluated yet.
    """
    summary = summarize(folders)
    title = "accuracy in the last evaluation, mean over nodes and seeds"
    table = Table(title=title, box=None, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for heading in headings(summary).values():
        table.add_column(heading.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for label, row in summary.iterrows():
        table.add_row(str(label), *comparison_cells(row, headings(summary)))
    return table


def headings(summary: pd.DataFrame) -> dict[str, str]:
    """List the columns of a summary that say something, with their headings."""
    return {key: name for key, name in HEADINGS.items() if summary[key].notna().any()}


def comparison_cells(row: Any, columns: Iterable[str]) -> list[str]:
    """Format some columns of a row of ``summarize`` for reading."""
    deviation = "" if pd.isna(row["accuracy-sd"]) else f" ± {row['accuracy-sd']:.3f}"
    digits = {"seeds": 0, "megabytes": 2, "minutes": 1}
    cells = {key: _number(row[key], digits.get(key, 3)) for key in columns}
    cells["accuracy"] += deviation
    return list(cells.values())


def _number(value: float, digits: int) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"
