"""Plot of the final score over the values of a swept setting."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flwr_decaf.report.runs import methods_of, own_settings, varied
from flwr_decaf.report.style import SIZE, looks
from flwr_decaf.report.summary import over_rounds, read_metrics, score_in
from flwr_decaf.runs.folder import RunFolder


def score_over_setting(folders: Sequence[RunFolder]) -> Figure | None:
    """Draw the final score over a setting, one line per method; bars are the range over the seeds.

    A setting in which only one strategy's runs differ, such as TAD-LoRA's phase length, splits
    that strategy into several methods. Returns None unless exactly one other setting varies.
    """
    metrics, differences, own = read_metrics(folders), varied(folders), own_settings(folders)
    shared = [name for name in differences if name not in own]
    if len(shared) != 1:
        return None
    values, methods = differences[shared[0]], methods_of(folders, own)
    rows = over_rounds(metrics).groupby("run").tail(1)
    rows = rows.assign(
        value=[values[run] for run in rows["run"]], method=[methods[run] for run in rows["run"]]
    )
    score = score_in(metrics)
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for panel, y, title in zip(
        axes, (score.name, "worst"), ("mean of the nodes", "worst node"), strict=True
    ):
        draw_panel(panel, rows, y, list(dict.fromkeys(values)))
        panel.set(xlabel=shared[0], title=title)
    axes[0].set(ylabel=f"{score.name}, {score.test}")
    handles, labels = axes[0].get_legend_handles_labels()
    columns = min(len(labels), 3 if own else 6)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def draw_panel(axes: Axes, rows: pd.DataFrame, y: str, order: list[object]) -> None:
    """Draw one score of every method over the swept values, evenly spaced in ``order``."""
    # Even spacing suits both 1, 2, 4, 8, 16 and path, ring, complete.
    for method, look in looks(rows["method"]).items():
        bands = rows[rows["method"] == method].groupby("value")[y].agg(["mean", "min", "max"])
        bands = bands.reindex([value for value in order if value in bands.index])
        at = [order.index(value) for value in bands.index]
        # Rounding may move the mean of equal values outside their range.
        around = [
            (bands["mean"] - bands["min"]).clip(lower=0),
            (bands["max"] - bands["mean"]).clip(lower=0),
        ]
        axes.errorbar(
            at, bands["mean"], yerr=around, label=method, color=look.colour, marker=look.marker,
            linestyle=look.dashes, capsize=3, markersize=4,
        )  # fmt: skip
    axes.set_xticks(range(len(order)), [str(value) for value in order])
