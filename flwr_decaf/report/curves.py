"""Plots of a score or a diagnostic over rounds, traffic or time, with one line per method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flwr_decaf.report.end_labels import fit, write_end_labels
from flwr_decaf.report.style import SIZE, Look, looks
from flwr_decaf.report.summary import consensus_distance, over_rounds, read_metrics, score_in
from flwr_decaf.runs.folder import RunFolder

_ROUNDING = 1e-5  # interference below this is the rounding error of fp32 factors


def score_over_rounds(folders: Sequence[RunFolder]) -> Figure:
    """Draw the mean and the worst score over the rounds; the band is the range over the seeds.

    If there is only one run, each of its nodes is also drawn, as a thin line.
    """
    figure = _mean_and_worst(folders, "round", "round")
    if len(folders) == 1:
        metrics = read_metrics(folders)
        name = score_in(metrics).name
        for _, rows in metrics.dropna(subset=[name]).groupby("node"):
            figure.axes[0].plot(rows["round"], rows[name], color="#999999", linewidth=0.7, zorder=1)
    return figure


def score_over_bytes(folders: Sequence[RunFolder]) -> Figure | None:
    """Draw the mean and the worst score over the megabytes sent per node; None if none were."""
    rows = over_rounds(read_metrics(folders))
    rows = rows[rows.groupby("run")["megabytes"].transform("max") > 0]
    return _mean_and_worst(folders, "megabytes", "MB sent per node", rows) if len(rows) else None


def score_over_seconds(folders: Sequence[RunFolder]) -> Figure | None:
    """Draw the mean and the worst score over the seconds of the rounds; None without times."""
    rows = over_rounds(read_metrics(folders)).dropna(subset=["seconds"])
    return (
        _mean_and_worst(folders, "seconds", "seconds since the start", rows) if len(rows) else None
    )


def deviation_over_nodes(folders: Sequence[RunFolder]) -> Figure:
    """Draw the standard deviation of the score over the nodes."""
    metrics = read_metrics(folders)
    rows = over_rounds(metrics)
    figure, axes = _figure(1)
    _lines(axes[0], rows, "round", "node-std")
    axes[0].set(xlabel="round", ylabel=f"std of {score_in(metrics).name} over nodes")
    _name_lines(figure, axes[0])
    return figure


def consensus_and_interference(folders: Sequence[RunFolder]) -> Figure | None:
    """Draw the consensus distance and the interference of mixing, on logarithmic scales."""
    metrics = read_metrics(folders)
    distance = consensus_distance(metrics)
    if distance.empty or "mixing-interference" not in metrics:
        return None
    figure, axes = _figure(2)
    _lines(axes[0], distance, "round", "distance")
    axes[0].set(xlabel="round", ylabel="consensus distance", yscale="log")
    lost = metrics[metrics["mixing-neighbours"] > 0]
    # Posts of round t that arrive with the next train message are mixed in round t + 1.
    lost = lost.assign(round=lost["round"] - (lost["phase"] == "train"))
    by = ["run", "label", "strategy", "round"]
    lost = lost.groupby(by, sort=False)["mixing-interference"].mean().reset_index()
    # Exact rules have only rounding errors, which would stretch the scale over ten decades.
    _lines(axes[1], lost[lost["mixing-interference"] > _ROUNDING], "round", "mixing-interference")
    axes[1].set(xlabel="round", ylabel="interference", yscale="log")
    _name_lines(figure, axes[0])
    return figure


def _mean_and_worst(
    folders: Sequence[RunFolder], x: str, name: str, rows: pd.DataFrame | None = None
) -> Figure:
    metrics = read_metrics(folders)
    rows = over_rounds(metrics) if rows is None else rows
    score = score_in(metrics)
    figure, axes = _figure(2, sharey=True)
    for panel, y in zip(axes, (score.name, "worst"), strict=True):
        _lines(panel, rows, x, y)
        panel.set(xlabel=name)
    axes[0].set(ylabel=f"{score.name}, {score.test}", title="mean of the nodes")
    axes[1].set(title="worst node")
    _name_lines(figure, axes[1])
    return figure


def _lines(axes: Axes, rows: pd.DataFrame, x: str, y: str) -> None:
    """Draw one line per label, the mean over its runs, with a band from lowest to highest."""
    look_of: dict[str, Look] = looks(rows["label"])
    for label, look in look_of.items():
        mine = rows[rows["label"] == label]
        band = mine.groupby("round")[y].agg(["mean", "min", "max"])
        at = mine.groupby("round")[x].mean() if x != "round" else band.index
        axes.plot(
            at, band["mean"], label=label, color=look.colour, linestyle=look.dashes,
            marker=look.marker, markersize=3.5, linewidth=1.6,
        )  # fmt: skip
        if x == "round":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.fill_between(at, band["min"], band["max"], color=look.colour, alpha=0.12, linewidth=0)


def _figure(panels: int, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=SIZE, layout="constrained")
    return figure, list(np.ravel(figure.subplots(1, panels, squeeze=False, sharey=sharey)))


def _name_lines(figure: Figure, axes: Axes) -> None:
    """Write the names of a panel's lines beside it if it is the last one and they fit, or below."""
    lines = {str(line.get_label()): line for line in axes.get_lines()}
    if len(lines) < 2:  # the heading of the table already names a single method
        return
    if axes is figure.axes[-1] and fit(lines):
        write_end_labels(axes, lines)
        return
    columns = max(min(len(lines), 4, 80 // max(map(len, lines))), 1)
    # A long legend must not reduce the height of the plot.
    rows = -(-len(lines) // columns)
    figure.set_size_inches(SIZE[0], SIZE[1] + 0.25 * max(rows - 2, 0))
    handles = list(lines.values())
    figure.legend(handles, list(lines), loc="outside lower center", ncols=columns, frameon=False)
