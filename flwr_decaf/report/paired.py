"""Paired differences between methods: the same seed means the same partitions and test rows."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd
from scipy import stats

from flwr_decaf.report.runs import scored
from flwr_decaf.report.summary import over_rounds, read_metrics, score_in
from flwr_decaf.runs.folder import RunFolder

_CONFIDENCE = 0.95


def paired_differences(folders: Sequence[RunFolder]) -> pd.DataFrame:
    """Compare each method with a reference on the seeds that both have.

    Methods are compared only if they used the same partitions and test rows: among the runs with
    the same ``data.*`` settings and number of nodes. The reference of such a group is its first
    FedAvg method or, if there is none, its first method. A difference is the method's score minus
    the reference's in the last evaluation with the same seed.

    Parameters
    ----------
    folders : sequence of RunFolder
        The runs; those without an evaluation are left out.

    Returns
    -------
    DataFrame
        Indexed by label, without the references: ``reference``, ``seeds``, and, for the mean over
        the nodes and for the ``worst`` node, the mean ``difference``, the ends ``low`` and ``high``
        of its 95 % confidence interval (Student's t), and the p-value ``p`` of a paired t-test,
        which is NaN if the difference is the same for all seeds. Methods with fewer than two common
        seeds are left out.
    """
    folders = scored(folders)
    metrics = read_metrics(folders)
    score = score_in(metrics).name
    last = over_rounds(metrics).groupby("run").tail(1)
    rows: dict[str, dict[str, object]] = {}
    for _, group in last.groupby([_data_of(folders[run]) for run in last["run"]], sort=False):
        rows |= _compare(group, score)
    return pd.DataFrame.from_dict(rows, orient="index")


def _data_of(folder: RunFolder) -> str:
    """Describe everything but the seed that determines the rows of each node."""
    settings = {k: v for k, v in folder.run["settings"].items() if k.startswith("data.")}
    nodes = folder.run.get("network", {}).get("nodes")
    return json.dumps([nodes, settings], sort_keys=True)


def _compare(last: pd.DataFrame, score: str) -> dict[str, dict[str, object]]:
    by_seed = last.pivot_table([score, "worst"], "seed", "label", sort=False)
    labels = list(dict.fromkeys(last["label"]))
    reference = next((label for label in labels if label.split(",")[0] == "fedavg"), labels[0])
    rows = {}
    for label in labels:
        both = by_seed[[(y, x) for y in (score, "worst") for x in (label, reference)]].dropna()
        if label == reference or len(both) < 2:
            continue
        row: dict[str, object] = {"reference": reference, "seeds": len(both)}
        for y, prefix in ((score, ""), ("worst", "worst-")):
            of_seeds = both[y][label] - both[y][reference]
            row |= {prefix + name: value for name, value in _interval(of_seeds).items()}
        rows[label] = row
    return rows


def _interval(differences: pd.Series[float]) -> dict[str, float]:
    mean = float(differences.mean())
    if differences.max() - differences.min() < 1e-12:  # the t-test divides by the deviation
        return {"difference": mean, "low": mean, "high": mean, "p": float("nan")}
    test = stats.ttest_1samp(differences, 0.0)
    low, high = test.confidence_interval(_CONFIDENCE)
    return {"difference": mean, "low": float(low), "high": float(high), "p": float(test.pvalue)}
