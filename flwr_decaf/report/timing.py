"""The parts of the time that a run's rounds take."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from flwr_decaf.report.summary import read_metrics
from flwr_decaf.runs.folder import RunFolder

_PARTS = {
    "training": "train-seconds",
    "mixing": "mixing-seconds",
    "matching": "matching-seconds",
    "evaluation": "evaluate-seconds",
}
_REST = "relay, waiting"


def seconds_spent(folders: Sequence[RunFolder]) -> pd.DataFrame | None:
    """Split the time of the rounds, in seconds per node and round.

    Returns
    -------
    DataFrame or None
        One row per method, with means over its runs, and one column for each part that took time.
        The last column, "relay, waiting", is the wall time of a round times the number of processes
        that worked in it, minus the other parts. None if the runs did not record times.
    """
    metrics = read_metrics(folders)
    if not {"process", "train-seconds", "elapsed"} <= set(metrics):
        return None
    seconds = {name: _split(rows) for name, rows in metrics.groupby(["run", "label"])}
    parts = pd.DataFrame.from_dict(seconds, orient="index").groupby(level=1, sort=False).mean()
    return parts.loc[:, (parts > 0).any() | (parts.columns == _REST)]


def describe_shares(folder: RunFolder) -> str:
    """Describe in one line what share of a run's time each part took; empty if it is unknown.

    If the run recorded its start-up time in seconds (engine, imports, model and data, until all
    nodes have answered), the line begins with it.
    """
    parts = seconds_spent([folder])
    if parts is None or not len(parts) or not parts.iloc[0].sum() > 0:
        return ""
    shares = 100 * parts.iloc[0] / parts.iloc[0].sum()
    line = "time: " + " · ".join(f"{part} {share:.0f} %" for part, share in shares.items())
    start = folder.run.get("start-up-seconds")
    return line if start is None else f"start-up: {start:.0f} s; {line}"


def describe_frozen_layers(folder: RunFolder) -> str:
    """Describe in one line which frozen layers were skipped; empty if the run did not record it.

    Returns
    -------
    str
        The layers whose results are kept, the share of the rows for which these results were read
        from the file instead of computed, and why nodes did not keep them.
    """
    layers = folder.run.get("frozen-layers")
    if not layers:
        return ""
    counts = [
        sum(line.get(f"hidden-states-{kind}", 0) for line in folder.metrics)
        for kind in ("read", "computed")
    ]
    used = f"; {100 * counts[0] / sum(counts):.0f} % of the rows read" if any(counts) else ""
    causes = {x["hidden-states-not-kept"] for x in folder.metrics if "hidden-states-not-kept" in x}
    if causes:
        return f"frozen layers {layers}{used}; not kept: {'; '.join(sorted(causes))} (see log.txt)"
    unused = "computed once: " in layers and not used
    return f"frozen layers {layers}{used}" + ("; not used" if unused else "")


def _split(rows: pd.DataFrame) -> dict[str, float]:
    rounds = rows[rows["round"] > 0]
    share = max(rounds["round"].nunique() * rounds["node"].nunique(), 1)
    spent = {
        part: float(rounds[column].sum()) / share if column in rounds else 0.0
        for part, column in _PARTS.items()
    }
    before = rows.loc[rows["round"] == 0, "elapsed"].max()
    wall = (rows["elapsed"].max() - (0.0 if pd.isna(before) else before)) / share
    at_once = rounds.groupby("round")["process"].nunique().max()  # a resumed run has new processes
    left = wall * at_once - sum(spent.values())
    return {**spent, _REST: max(left, 0.0)}
