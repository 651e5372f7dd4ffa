"""One plot: what a setting that was swept does to the accuracy in the end."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flwr_decaf.report.runs import over_rounds, read_metrics, varied
from flwr_decaf.report.style import looks
from flwr_decaf.run_folder import RunFolder

_SIZE = (7.2, 3.6)  # inches


def accuracy_over_setting(folders: Sequence[RunFolder]) -> Figure | None:
    """Draw the last accuracy over a setting, a line a method; bars are the range over the seeds.

    None unless the runs differ in exactly one setting, seeds and strategies aside.
    """
    differences = varied(folders)
    if len(differences) != 1:
        return None
    ((name, values),) = differences.items()
    rows = over_rounds(read_metrics(folders)).groupby("run").tail(1)
    rows = rows.assign(value=[values[run] for run in rows["run"]])
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for panel, y, title in zip(
        axes, ("accuracy", "worst"), ("mean of the nodes", "worst node"), strict=True
    ):
        _draw(panel, rows, y, list(dict.fromkeys(values)))
        panel.set(xlabel=name, title=title)
    axes[0].set(ylabel="accuracy, common test")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, y: str, order: list[object]) -> None:
    # Places, not values: 1, 2, 4, 8, 16 and path, ring, complete are both read best evenly spaced.
    for strategy, look in looks(rows["strategy"]).items():
        bands = rows[rows["strategy"] == strategy].groupby("value")[y].agg(["mean", "min", "max"])
        bands = bands.reindex([value for value in order if value in bands.index])
        at = [order.index(value) for value in bands.index]
        around = [bands["mean"] - bands["min"], bands["max"] - bands["mean"]]
        axes.errorbar(
            at, bands["mean"], yerr=around, label=strategy, color=look.colour, marker=look.marker,
            linestyle=look.dashes, capsize=3, markersize=4,
        )  # fmt: skip
    axes.set_xticks(range(len(order)), [str(value) for value in order])
