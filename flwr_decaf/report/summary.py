"""Run folders as data frames, from which the tables, the plots and the page are made.

Of unfinished runs, only the completed rounds count.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import cast

import pandas as pd

from flwr_decaf.report.runs import Snapshot, labels_of, scored
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.score import Score, score_of


def read_metrics(folders: Sequence[RunFolder]) -> pd.DataFrame:
    """Read every line of every run into one table.

    Returns
    -------
    DataFrame
        One row for each run, round, node and phase. The columns are the metrics and ``run``
        (position in ``folders``), ``label``, ``strategy`` and ``seed``. The table of snapshots is
        shared: it must not be changed in place.
    """
    if all(isinstance(folder, Snapshot) for folder in folders):
        return _read_once(tuple(folders))
    return _read(folders)


@lru_cache(maxsize=16)  # a report asks for the runs together, and for some alone
def _read_once(folders: tuple[RunFolder, ...]) -> pd.DataFrame:
    return _read(folders)


def _read(folders: Sequence[RunFolder]) -> pd.DataFrame:
    tables = []
    for place, (folder, label) in enumerate(zip(folders, labels_of(folders), strict=True)):
        table = pd.DataFrame(folder.metrics)
        settings = folder.run["settings"]
        named = {"run": place, "label": label, "strategy": settings["strategy"]}
        tables.append(table.assign(**named, seed=settings["seed"]))
    columns = {"phase": "", "round": 0, "node": 0}
    everything = pd.concat(tables, ignore_index=True)
    return everything.assign(**{k: v for k, v in columns.items() if k not in everything})


def over_rounds(metrics: pd.DataFrame) -> pd.DataFrame:
    """Aggregate each evaluated round of each run into one row.

    Returns
    -------
    DataFrame
        ``run``, ``label``, ``strategy``, ``seed``, ``round``; the mean ``accuracy`` (or
        ``perplexity``) over the nodes, the ``worst`` value, the standard deviation ``node-std``,
        and the mean ``local-accuracy``; ``megabytes`` sent per node since the start; and
        ``seconds`` since the start (NaN if they were not recorded).

    Raises
    ------
    ValueError
        If there is no evaluation.
    """
    score = score_in(metrics)
    name, local = score.name, score.local
    scores = metrics[metrics["phase"] == "evaluate"].dropna(subset=[name])
    by = ["run", "label", "strategy", "seed", "round"]
    if local not in scores:
        scores = scores.assign(**{local: float("nan")})
    grouped = scores.groupby(by, sort=False)
    columns = {
        name: grouped[name].mean(),
        "worst": grouped[name].agg(score.worst),
        "node-std": grouped[name].std(ddof=0),
        local: grouped[local].mean(),
    }
    rows = pd.DataFrame(columns).reset_index()
    places = list(zip(rows["run"], rows["round"], strict=True))
    sent, elapsed = _megabytes_until(metrics), _seconds_until(metrics)
    rows["megabytes"] = [float(sent.get(place, 0.0)) for place in places]
    rows["seconds"] = [float(elapsed.get(place, float("nan"))) for place in places]
    return rows


def summarize(folders: Sequence[RunFolder]) -> pd.DataFrame:
    """Aggregate each method into one row, from the last evaluation of each of its runs.

    Returns
    -------
    DataFrame
        Indexed by label, in the order of the runs: ``seeds`` (number of runs); the means over the
        seeds of ``accuracy`` (or ``perplexity``), ``worst``, ``f1``, ``node-std``,
        ``local-accuracy``, ``megabytes`` per node, ``average-accuracy`` (of the average model, if
        it was scored), ``consensus-distance`` and ``minutes``; and ``accuracy-std``, the standard
        deviation of ``accuracy`` over the seeds. Without a common test set, ``local-accuracy``
        takes the place of ``accuracy``.

    Raises
    ------
    ValueError
        If no run has been evaluated yet.
    """
    folders = scored(folders)
    metrics = read_metrics(folders)
    score = score_in(metrics)
    name = score.name
    rows = over_rounds(metrics)
    last = rows.sort_values("round", kind="stable").groupby("run").tail(1).set_index("run")
    last["consensus-distance"] = consensus_distance(metrics).groupby("run")["distance"].last()
    last["f1"] = _last_f1(metrics)
    last[f"average-{name}"] = _average_model(metrics, f"average-{name}")
    last["minutes"] = pd.Series({i: _minutes(folder) for i, folder in enumerate(folders)})
    grouped = last.sort_index().groupby("label", sort=False)
    wanted = dict.fromkeys([name, "worst", "node-std", score.local, "megabytes"])
    table = grouped[[*wanted, f"average-{name}", "f1", "consensus-distance", "minutes"]].mean()
    table.insert(0, "seeds", grouped.size())
    table[f"{name}-std"] = grouped[name].std(ddof=1)
    return table


def consensus_distance(metrics: pd.DataFrame) -> pd.DataFrame:
    """Compute the root mean square of the nodes' distances to their mean, per run and round."""
    if "distance-to-mean" not in metrics:
        return pd.DataFrame({"run": [], "label": [], "strategy": [], "round": [], "distance": []})
    known = metrics.dropna(subset=["distance-to-mean"])
    squares = known.assign(distance=known["distance-to-mean"] ** 2)
    by = ["run", "label", "strategy", "round"]
    mean = squares.groupby(by, sort=False)["distance"].mean().reset_index()
    return mean.assign(distance=mean["distance"] ** 0.5)


def score_in(metrics: pd.DataFrame) -> Score:
    """Find the score in a table of metrics.

    Raises
    ------
    ValueError
        If the table contains no evaluation.
    """
    score = score_of([dict.fromkeys(metrics.columns)])
    if score is None:
        raise ValueError("metrics must contain an evaluation; got none; see evaluate-every")
    return score


def _average_model(metrics: pd.DataFrame, name: str) -> pd.Series[float]:
    """Return the last score of the average of the nodes' models, by run; empty if never scored."""
    if name not in metrics:
        return pd.Series(dtype=float)
    known = metrics.dropna(subset=[name])
    return cast("pd.Series[float]", known.groupby("run")[name].last())


def _last_f1(metrics: pd.DataFrame) -> pd.Series[float]:
    """Return the nodes' mean F1 in the last evaluation, by run; empty if the task has none."""
    if "f1" not in metrics:
        return pd.Series(dtype=float)
    known = metrics[metrics["phase"] == "evaluate"].dropna(subset=["f1"])
    by_round = known.groupby(["run", "round"])["f1"].mean()
    return cast("pd.Series[float]", by_round.groupby("run").last())


def _megabytes_until(metrics: pd.DataFrame) -> dict[tuple[int, int], float]:
    """Accumulate the average megabytes sent per node, by run and round."""
    if "bytes-sent" not in metrics:
        return {}
    lines = metrics.dropna(subset=["bytes-sent"])
    by_round = lines.groupby(["run", "round"])["bytes-sent"].sum()
    nodes = lines.groupby("run")["node"].nunique()  # in some rounds, there are fewer
    total = by_round.groupby("run").cumsum() / nodes / 1e6
    return cast(dict[tuple[int, int], float], total.to_dict())


def _seconds_until(metrics: pd.DataFrame) -> dict[tuple[int, int], float]:
    if "elapsed" not in metrics:
        return {}
    evaluated = metrics[metrics["phase"] == "evaluate"].groupby(["run", "round"])["elapsed"]
    # All lines of a synchronous round have the same time; of an asynchronous one, half do earlier.
    return cast(dict[tuple[int, int], float], evaluated.median().to_dict())


def _minutes(folder: RunFolder) -> float:
    run = folder.run
    if "ended" not in run:
        return float("nan")
    if "resumed" in run:  # excludes the pause before the run was resumed
        return max((line.get("elapsed", 0.0) for line in folder.metrics), default=0.0) / 60
    started, ended = (datetime.fromisoformat(run[key]) for key in ("started", "ended"))
    return (ended - started).total_seconds() / 60
