"""Plots of runs, each a function from run folders to a matplotlib figure."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flwr_decaf.report.runs import labels_of
from flwr_decaf.report.style import PART_COLOURS, Look, looks
from flwr_decaf.report.summary import consensus_distance, over_rounds, read_metrics, score_in
from flwr_decaf.report.swept import score_over_setting
from flwr_decaf.report.timing import seconds_spent
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.score import score_of
from flwr_decaf.topology.mixing_matrix import graph_of

_SIZE = (7.2, 3.6)  # inches
_ROUNDING = 1e-5  # interference below this is rounding of fp32 factors
_RC: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 10,
    "svg.fonttype": "none",  # keep text as text: it can be searched, and it scales
    "svg.hashsalt": "flwr-decaf",  # the same runs produce the same file
}


def draw(name: str, folders: Sequence[RunFolder]) -> Figure | None:
    """Draw one of ``PLOTS`` in the report's style; None if the runs have no data for it."""
    with mpl.rc_context(_RC):
        return PLOTS[name][1](folders)


def score_over_rounds(folders: Sequence[RunFolder]) -> Figure:
    """Draw the mean and the worst score over the rounds; the band is the range over the seeds.

    If there is only one run, each of its nodes is drawn as a thin line.
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


def deviation_over_nodes(folders: Sequence[RunFolder]) -> Figure:
    """Draw the standard deviation of the score over the nodes."""
    metrics = read_metrics(folders)
    rows = over_rounds(metrics)
    figure, axes = _figure(1)
    _lines(axes[0], rows, "round", "node-std")
    axes[0].set(xlabel="round", ylabel=f"std of {score_in(metrics).name} over nodes")
    _legend(figure, axes[0])
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
    _legend(figure, axes[0])
    return figure


def graph_by_score(folders: Sequence[RunFolder]) -> Figure | None:
    """Draw each method's graph with its nodes coloured by their last score (of the first seed)."""
    labels = labels_of(folders)
    firsts = dict(reversed(list(zip(labels, folders, strict=True))))
    drawn = {
        label: folder
        for label in dict.fromkeys(labels)
        if "mixing-matrix" in (folder := firsts[label]).run.get("network", {})
        and _last_scores(folder)[1]
    }
    if not drawn:
        return None
    names, each = zip(*map(_last_scores, drawn.values()), strict=True)
    scores = dict(zip(drawn, each, strict=True))
    everything = [value for nodes in scores.values() for value in nodes.values()]
    scale = ScalarMappable(Normalize(min(everything), max(everything)), "cividis")
    columns = min(len(drawn), 3)
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(2.6 * columns + 0.8, 2.7 * rows), layout="constrained")
    grid = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axes in grid:
        axes.axis("off")
    for axes, (label, folder) in zip(grid, drawn.items(), strict=False):
        w = np.array(folder.run["network"]["mixing-matrix"])
        draw_graph(
            axes,
            graph_of(w),
            [
                scale.to_rgba(scores[label][i]) if i in scores[label] else "white"
                for i in range(len(w))
            ],
        )
        axes.set_title(textwrap.fill(label, 26), fontsize=10)
    figure.colorbar(scale, ax=list(grid), label=f"{names[0]} of the node", shrink=0.8)
    return figure


def draw_graph(axes: Axes, graph: nx.Graph, colours: object = "#0072B2") -> None:
    """Draw a graph with its nodes on a circle, numbered by position."""
    place = nx.circular_layout(graph)
    size = 260 if len(graph) <= 20 else 60
    nx.draw_networkx_edges(graph, place, ax=axes, edge_color="#999999", width=0.8)
    nx.draw_networkx_nodes(
        graph,
        place,
        ax=axes,
        node_color=colours,
        node_size=size,
        edgecolors="#333333",
        linewidths=0.6,
    )
    if len(graph) <= 20:
        white = {"boxstyle": "circle,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7}
        nx.draw_networkx_labels(graph, place, ax=axes, font_size=7, bbox=white)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.margins(0.12)


def time_split(folders: Sequence[RunFolder]) -> Figure | None:
    """Draw how a node's time in a round splits into training, mixing, evaluation, and the rest.

    The rest, "relay, waiting", is the wall time of a round times the number of processes that
    worked in it, minus the other parts.
    """
    parts = seconds_spent(folders)
    if parts is None:
        return None
    parts.index = parts.index.map(lambda label: textwrap.fill(label, 26))
    figure = Figure(figsize=(_SIZE[0], 0.9 + 0.33 * len(parts)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(parts))
    for part in parts:
        axes.barh(parts.index, parts[part], left=left, label=part, color=PART_COLOURS[str(part)])
        left += parts[part].to_numpy()
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="seconds per node and round")
    axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9)
    return figure


PLOTS: dict[str, tuple[str, Callable[[Sequence[RunFolder]], Figure | None]]] = {
    "over-setting": ("Score by setting", score_over_setting),
    "over-rounds": ("Score over rounds", score_over_rounds),
    "over-bytes": ("Score over traffic", score_over_bytes),
    "consensus": ("Consensus distance and interference", consensus_and_interference),
    "deviation": ("Standard deviation over the nodes", deviation_over_nodes),
    "graph": ("Score of each node in the graph", graph_by_score),
    "time": ("Time per node and round", time_split),
}


def _mean_and_worst(
    folders: Sequence[RunFolder], x: str, name: str, rows: pd.DataFrame | None = None
) -> Figure:
    metrics = read_metrics(folders)
    rows = over_rounds(metrics) if rows is None else rows
    score = score_in(metrics).name
    figure, axes = _figure(2, sharey=True)
    for panel, y in zip(axes, (score, "worst"), strict=True):
        _lines(panel, rows, x, y)
        panel.set(xlabel=name)
    axes[0].set(ylabel=f"{score}, common test", title="mean of the nodes")
    axes[1].set(title="worst node")
    _legend(figure, axes[0])
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
    figure = Figure(figsize=_SIZE, layout="constrained")
    return figure, list(np.ravel(figure.subplots(1, panels, squeeze=False, sharey=sharey)))


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=1)
    columns = max(min(len(labels), 4, 80 // longest), 1)
    # A long legend must not take height from the lines.
    rows = -(-len(labels) // columns)
    figure.set_size_inches(_SIZE[0], _SIZE[1] + 0.25 * max(rows - 2, 0))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def _last_scores(folder: RunFolder) -> tuple[str, dict[int, float]]:
    """Get the name of the score, and every node's score in the last evaluation."""
    score = score_of(folder.metrics)
    name = score.name if score else ""
    scored = [line for line in folder.metrics if name in line]
    last = max((line["round"] for line in scored), default=0)
    return name, {line["node"]: line[name] for line in scored if line["round"] == last}
