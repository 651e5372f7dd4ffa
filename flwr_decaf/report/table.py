"""The tables that end a run: every node before and after, or every method of a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.table import Table

from flwr_decaf.report.runs import scored
from flwr_decaf.report.summary import summarize
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.score import SCORES, score_of

Line = Mapping[str, Any]

HEADINGS = {
    "seeds": "seeds",
    **{score.name: score.name for score in SCORES},
    "worst": "worst node",
    "f1": "F1",
    "spread": "spread",
    **{f"local-{score.name}": "local test" for score in SCORES},
    **{f"average-{score.name}": "average model" for score in SCORES},
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
    score = score_of(scored([folder])[0].metrics) or SCORES[0]
    scores = [line for line in folder.metrics if line["phase"] == "evaluate"]
    rounds = {line["round"] for line in scores}
    last = max(rounds)
    # With evaluate-every = 0, or stopped early, a run has nothing after training.
    when = {"before": min(rounds), **({"after": last} if last else {})}
    sent = _mean_bytes(folder.metrics)
    tests = {"common test": score.name, "local test": f"local-{score.name}"}
    # Data that comes partitioned, or too little of it, leaves nodes no test of their own.
    tests = {told: key for told, key in tests.items() if any(key in line for line in scores)}
    table = _headings(folder, score.name, last, tests, when)
    rows = {
        node: [*_scores(node, scores, tests.values(), when.values()), sent.get(node)]
        for node in sorted({line["node"] for line in scores})
    }
    for node, row in rows.items():
        table.add_row(str(node), *_cells(row))
    table.add_section()
    columns = list(zip(*rows.values(), strict=True))
    for name, summary in (
        ("mean", statistics.fmean),
        ("worst", score.worst),
        ("spread", statistics.pstdev),
    ):
        # The bytes have a mean, but no worst and no spread that would say anything.
        summarised = columns if name == "mean" else columns[:-1]
        table.add_row(name, *_cells([_apply(summary, column) for column in summarised]))
    return table


def _headings(
    folder: RunFolder, score: str, last: int, tests: Iterable[str], when: Iterable[str]
) -> Table:
    settings = folder.run["settings"]
    told = f"after round {last}" if last else "before training (not evaluated since)"
    table = Table(title=f"{settings['strategy']} · {settings['topology.name']} · {score} {told}")
    table.add_column("node", justify="right")
    for heading in tests:
        for place, name in enumerate(when):
            table.add_column(f"{'' if place else heading}\n{name}", justify="right")
    table.add_column("MB sent\na round", justify="right")
    return table


def _scores(
    node: int, lines: Sequence[Line], names: Iterable[str], rounds: Collection[int]
) -> list[float | None]:
    at = {line["round"]: line for line in lines if line["node"] == node}
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
    score = next(score.name for score in SCORES if score.name in summary)
    title = f"{score} in the last evaluation, mean over nodes and seeds"
    table = Table(title=title, box=None, padding=(0, 1, 0, 0))
    table.add_column("method", overflow="fold")  # wraps, so that figures are never cut
    for heading in headings(summary).values():
        table.add_column(heading.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for label, row in summary.iterrows():
        table.add_row(str(label), *comparison_cells(row, headings(summary)))
    return table


def headings(summary: pd.DataFrame) -> dict[str, str]:
    """List the columns of a summary that say something, with their headings."""
    return {
        key: name for key, name in HEADINGS.items() if key in summary and summary[key].notna().any()
    }


def comparison_cells(row: Any, columns: Iterable[str]) -> list[str]:
    """Format some columns of a row of ``summarize`` for reading."""
    score = next(score.name for score in SCORES if score.name in row)
    deviation = "" if pd.isna(row[f"{score}-sd"]) else f" ± {row[f'{score}-sd']:.3f}"
    digits = {"seeds": 0, "megabytes": 2, "minutes": 1}
    cells = {key: _number(row[key], digits.get(key, 3)) for key in columns}
    cells[score] += deviation
    return list(cells.values())


def _number(value: float, digits: int) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"
