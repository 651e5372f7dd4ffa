"""Run folders as tables of numbers: all that tables, plots and the page are made from.

Half-finished runs count as far as they have come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pandas as pd

from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.score import Score, score_of

# Settings in which runs differ without being different methods.
_NOT_IN_LABELS = {
    "strategy", "seed", "run-name", "output-dir", "seeds", "sweep", "resume-from",
    "checkpoint-every", "tensorboard",
}  # fmt: skip


def find_runs(paths: Iterable[Path]) -> list[RunFolder]:
    """Find the run folders among folders and in them, each folder's in the order of their start.

    Raises
    ------
    ValueError
        If a folder neither is one nor holds one.
    """
    found: list[RunFolder] = []
    for path in paths:
        here = [
            file.parent for file in (path / "run.json", *path.glob("*/run.json")) if file.exists()
        ]
        if not here:
            raise ValueError(
                f"FOLDERS must be run folders or hold some; {path} does not; see output-dir"
            )
        found += sorted((RunFolder(run) for run in here), key=lambda run: str(run.run["started"]))
    return found


def varied(folders: Sequence[RunFolder]) -> dict[str, list[Any]]:
    """List the settings in which runs differ, seeds and strategies aside.

    Returns
    -------
    dict of str to list
        Short name of the setting -> its value in each run, "nodes" among them.
    """
    settings = [folder.run["settings"] for folder in folders]
    values = {key: [one.get(key) for one in settings] for key in settings[0]}
    values["nodes"] = [folder.run.get("network", {}).get("nodes") for folder in folders]
    differing = {
        key: each
        for key, each in values.items()
        if key not in _NOT_IN_LABELS and len(set(map(str, each))) > 1
    }
    return {_short(key): each for key, each in differing.items()}


def own_settings(folders: Sequence[RunFolder]) -> dict[str, str]:
    """List the settings in which the runs of one of several strategies alone differ, and which.

    Such as TAD-LoRA's phase length: they name that strategy's methods, and no other's.
    """
    strategies = strategies_of(folders)
    owners: dict[str, str] = {}
    for name, values in varied(folders).items():
        pairs = set(zip(strategies, map(str, values), strict=True))
        differing = {s for s in strategies if sum(strategy == s for strategy, _ in pairs) > 1}
        if len(differing) == 1 and len(set(strategies)) > 1:
            owners[name] = differing.pop()
    return owners


def labels_of(folders: Sequence[RunFolder]) -> list[str]:
    """Name each run by its strategy and by the settings in which the runs differ, seeds aside."""
    return methods_of(folders, varied(folders))


def methods_of(folders: Sequence[RunFolder], named: Iterable[str]) -> list[str]:
    """Name each run by its strategy and by some of the settings in which the runs differ."""
    differences, owners = varied(folders), own_settings(folders)
    return [
        ", ".join(
            [
                strategy,
                *(
                    f"{name} {differences[name][place]}"
                    for name in named
                    if owners.get(name, strategy) == strategy
                ),
            ]
        )
        for place, strategy in enumerate(strategies_of(folders))
    ]


def strategies_of(folders: Sequence[RunFolder]) -> list[str]:
    """List the strategy of each run."""
    return [folder.run["settings"]["strategy"] for folder in folders]


def evaluated(folders: Sequence[RunFolder]) -> list[RunFolder]:
    """Keep the runs that have been evaluated at least once: the others have nothing to show.

    Raises
    ------
    ValueError
        If none has, or if they are scored in different ways.
    """
    scores = {folder.path: score_of(folder.metrics) for folder in folders}
    kept = [folder for folder in folders if scores[folder.path]]
    first_of = {scores[folder.path]: folder.path for folder in reversed(kept)}
    if len(first_of) > 1:
        ways = ", ".join(f"{path} by {score.name}" for score, path in first_of.items() if score)
        raise ValueError(
            f"FOLDERS must hold runs scored in one way; got {ways}; report them one by one"
        )
    if not kept:
        status = folders[0].run.get("status")
        raise ValueError(
            f"FOLDERS must hold an evaluation; {folders[0].path} holds none (status {status}); "
            "wait for the first one, or see its log.txt"
        )
    return kept


def read_metrics(folders: Sequence[RunFolder]) -> pd.DataFrame:
    """Read every line of every run into one table.

    Returns
    -------
    DataFrame
        A row for each run, round, node and phase; beside the metrics the columns ``run`` (place
        in ``folders``), ``label``, ``strategy`` and ``seed``.
    """
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
    """Condense each evaluated round of each run to one row.

    Returns
    -------
    DataFrame
        ``run``, ``label``, ``strategy``, ``seed``, ``round``; over the nodes the mean ``accuracy``
        (or ``perplexity``), the ``worst``, the ``spread`` (standard deviation), the mean
        ``local-accuracy``; and ``megabytes``, sent per node from the start on.

    Raises
    ------
    ValueError
        If there is no evaluation.
    """
    score = score_in(metrics)
    name, local = score.name, f"local-{score.name}"
    scores = metrics[metrics["phase"] == "evaluate"].dropna(subset=[name])
    by = ["run", "label", "strategy", "seed", "round"]
    if local not in scores:
        scores = scores.assign(**{local: float("nan")})
    grouped = scores.groupby(by, sort=False)
    columns = {
        name: grouped[name].mean(),
        "worst": grouped[name].agg(score.worst),
        "spread": grouped[name].std(ddof=0),
        local: grouped[local].mean(),
    }
    rows = pd.DataFrame(columns).reset_index()
    sent = _megabytes_until(metrics)
    rows["megabytes"] = [
        float(sent.get((run, when), 0.0))
        for run, when in zip(rows["run"], rows["round"], strict=True)
    ]
    return rows


def summarize(folders: Sequence[RunFolder]) -> pd.DataFrame:
    """Condense each method to one row: where its runs stand in their last evaluation.

    Returns
    -------
    DataFrame
        Indexed by label, in the order of the runs: ``seeds`` (number of runs), mean over the seeds
        of ``accuracy`` (or ``perplexity``), ``worst``, ``f1``, ``spread``, ``local-accuracy``,
        ``megabytes`` per node, ``average-accuracy`` (of the average model, where it was scored),
        ``consensus-distance``, ``minutes``; and ``accuracy-sd``, its standard deviation over the
        seeds.

    Raises
    ------
    ValueError
        If no run has been evaluated yet.
    """
    folders = evaluated(folders)
    metrics = read_metrics(folders)
    name = score_in(metrics).name
    rows = over_rounds(metrics)
    last = rows.sort_values("round", kind="stable").groupby("run").tail(1).set_index("run")
    last["consensus-distance"] = consensus_distance(metrics).groupby("run")["distance"].last()
    last["f1"] = _last_f1(metrics)
    last[f"average-{name}"] = _average_model(metrics, f"average-{name}")
    last["minutes"] = pd.Series({i: _minutes(folder) for i, folder in enumerate(folders)})
    grouped = last.sort_index().groupby("label", sort=False)
    wanted = [name, "worst", "spread", f"local-{name}", "megabytes"]
    table = grouped[[*wanted, f"average-{name}", "f1", "consensus-distance", "minutes"]].mean()
    table.insert(0, "seeds", grouped.size())
    table[f"{name}-sd"] = grouped[name].std(ddof=1)
    return table


def consensus_distance(metrics: pd.DataFrame) -> pd.DataFrame:
    """Root mean square over the nodes of their distance to the mean, per run and round."""
    if "distance-to-mean" not in metrics:
        return pd.DataFrame({"run": [], "label": [], "strategy": [], "round": [], "distance": []})
    known = metrics.dropna(subset=["distance-to-mean"])
    squares = known.assign(distance=known["distance-to-mean"] ** 2)
    by = ["run", "label", "strategy", "round"]
    mean = squares.groupby(by, sort=False)["distance"].mean().reset_index()
    return mean.assign(distance=mean["distance"] ** 0.5)


def score_in(metrics: pd.DataFrame) -> Score:
    """Find the score that a table of metrics has.

    Raises
    ------
    ValueError
        If there is no evaluation in it.
    """
    score = score_of([dict.fromkeys(metrics.columns)])
    if score is None:
        raise ValueError("metrics must hold an evaluation; got none; see evaluate-every")
    return score


def _average_model(metrics: pd.DataFrame, name: str) -> pd.Series[float]:
    """Last score of the average over the nodes' models, by run; empty if it was never scored."""
    if name not in metrics:
        return pd.Series(dtype=float)
    known = metrics.dropna(subset=[name])
    return cast("pd.Series[float]", known.groupby("run")[name].last())


def _last_f1(metrics: pd.DataFrame) -> pd.Series[float]:
    """Mean F1 of the nodes in the last evaluation, by run; empty if the task has none."""
    if "f1" not in metrics:
        return pd.Series(dtype=float)
    known = metrics[metrics["phase"] == "evaluate"].dropna(subset=["f1"])
    by_round = known.groupby(["run", "round"])["f1"].mean()
    return cast("pd.Series[float]", by_round.groupby("run").last())


def _short(key: str) -> str:
    # "model.name" says more as "model" than as "name"; "lora.rank" more as "rank".
    section, _, name = key.rpartition(".")
    return section if name in ("name", "file") else name


def _megabytes_until(metrics: pd.DataFrame) -> dict[tuple[int, int], float]:
    """Add up what a node sent on average, by run and round."""
    if "bytes-sent" not in metrics:
        return {}
    by_round = metrics.dropna(subset=["bytes-sent"]).groupby(["run", "round"])["bytes-sent"].mean()
    total = by_round.groupby("run").cumsum() / 1e6
    return cast(dict[tuple[int, int], float], total.to_dict())


def _minutes(folder: RunFolder) -> float:
    run = folder.run
    if "ended" not in run:
        return float("nan")
    if "resumed" in run:  # the time between its parts is not the run's
        return max((line.get("elapsed", 0.0) for line in folder.metrics), default=0.0) / 60
    begun, ended = (datetime.fromisoformat(run[key]) for key in ("started", "ended"))
    return (ended - begun).total_seconds() / 60
