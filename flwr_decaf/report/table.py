"""Result tables: one run with a row per node, or a comparison with a row per method."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from rich.table import Table

from flwr_decaf.config.network import graph_in_words
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
    "node-std": "std over nodes",
    **{score.local: "local test" for score in SCORES},
    **{f"average-{score.name}": "average model" for score in SCORES},
    "consensus-distance": "consensus distance",
    "megabytes": "MB per node",
    "minutes": "minutes",
}


def run_table(folder: RunFolder) -> Table:
    """Tabulate the first and the last evaluation of every node, and its traffic.

    Parameters
    ----------
    folder : RunFolder
        Folder of a finished or unfinished run.

    Returns
    -------
    rich.table.Table
        One row per node, then the mean, the worst value and the standard deviation over the
        nodes.

    Raises
    ------
    ValueError
        If the run has not been evaluated yet.
    """
    nodes = node_table(folder)
    table = Table(title=nodes.title)
    table.add_column("node", justify="right")
    for heading in nodes.headings:
        table.add_column(heading, justify="right")
    for name, cells in nodes.rows.items():
        table.add_row(name, *cells)
    table.add_section()
    for name, cells in nodes.summary.items():
        table.add_row(name, *cells)
    return table


class NodeTable(NamedTuple):
    """A table with one row per node as text, to be formatted for a terminal or a page.

    Attributes
    ----------
    title : str
        Strategy, topology and score.
    headings : list of str
        Headings of the columns after "node", with line breaks.
    rows : dict of str to list of str
        Cells of each node.
    summary : dict of str to list of str
        Cells of the mean, the worst value and the standard deviation over the nodes.
    """

    title: str
    headings: list[str]
    rows: dict[str, list[str]]
    summary: dict[str, list[str]]


def node_table(folder: RunFolder) -> NodeTable:
    """Collect the first and the last evaluation of every node, and its traffic.

    Raises
    ------
    ValueError
        If the run has not been evaluated yet.
    """
    score = score_of(scored([folder])[0].metrics) or SCORES[0]
    scores = [line for line in folder.metrics if line["phase"] == "evaluate"]
    rounds = {line["round"] for line in scores}
    last = max(rounds)
    # A run has no evaluation after training if evaluate-every = 0 or if it stopped early.
    when = {"before": min(rounds), **({"after": last} if last else {})}
    sent = _mean_bytes(folder.metrics)
    tests = {"common test": score.name, "local test": score.local}
    # Nodes may have no test set of their own, or no common one.
    if score.is_local:
        del tests["common test"]
    tests = {heading: key for heading, key in tests.items() if any(key in line for line in scores)}
    rows = {
        str(node): [*_scores(node, scores, tests.values(), when.values()), sent.get(node)]
        for node in sorted({line["node"] for line in scores})
    }
    columns = list(zip(*rows.values(), strict=True))
    summaries = {"mean": statistics.fmean, "worst": score.worst, "std": statistics.pstdev}
    # For the bytes, only the mean is of interest.
    summary = {
        name: [_apply(function, column) for column in columns[: None if name == "mean" else -1]]
        for name, function in summaries.items()
    }
    return NodeTable(
        _title(folder, score.name, last),
        _headings(tests, when),
        {name: _cells(row) for name, row in rows.items()},
        {name: _cells(row) for name, row in summary.items()},
    )


def _title(folder: RunFolder, score: str, last: int) -> str:
    settings = folder.run["settings"]
    when = f"after round {last}" if last else "before training (not evaluated since)"
    what = [settings["strategy"], *filter(None, [graph_in_words(settings)])]
    if settings.get("mixing-steps", "1") != "1" and "posts-per-round" in folder.run["network"]:
        what.append(f"{folder.run['network']['posts-per-round']:.1f} posts per round")
    return " · ".join([*what, f"{score} {when}"])


def _headings(tests: Iterable[str], when: Iterable[str]) -> list[str]:
    named = [
        f"{'' if place else heading}\n{name}"
        for heading in tests
        for place, name in enumerate(when)
    ]
    return [*named, "MB sent\nper round"]


def _scores(
    node: int, lines: Sequence[Line], names: Iterable[str], rounds: Collection[int]
) -> list[float | None]:
    at = {line["round"]: line for line in lines if line["node"] == node}
    return [at.get(when, {}).get(name) for name in names for when in rounds]


def _mean_bytes(lines: Sequence[Line]) -> dict[int, float]:
    """Average the megabytes that each node sent to its neighbours per round."""
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
    """Tabulate several runs, one row per method, with means over the seeds.

    Raises
    ------
    ValueError
        If none of the runs has been evaluated yet, or if they have different scores.
    """
    summary = summarize(folders)
    score = next(score.name for score in SCORES if score.name in summary)
    title = f"{score} in the last evaluation, mean over nodes and seeds"
    table = Table(title=title, box=None, padding=(0, 1, 0, 0))
    table.add_column("method", overflow="fold")  # wraps, so that numbers are never truncated
    for heading in headings(summary).values():
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
    for label, row in summary.iterrows():
        table.add_row(str(label), *comparison_cells(row, headings(summary)))
    return table


def headings(summary: pd.DataFrame) -> dict[str, str]:
    """Map the columns of a summary that contain values to their headings."""
    return {
        key: name for key, name in HEADINGS.items() if key in summary and summary[key].notna().any()
    }


def comparison_cells(row: Any, columns: Iterable[str]) -> list[str]:
    """Format columns of a row of ``summarize`` as text."""
    score = next(score.name for score in SCORES if score.name in row)
    deviation = "" if pd.isna(row[f"{score}-std"]) else f" ± {row[f'{score}-std']:.3f}"
    digits = {"seeds": 0, "megabytes": 2, "minutes": 1}
    cells = {key: _number(row[key], digits.get(key, 3)) for key in columns}
    cells[score] += deviation
    return list(cells.values())


def _number(value: float, digits: int) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"
