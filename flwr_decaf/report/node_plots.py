"""Plots of individual nodes: their scores in the graph and over the rounds."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial

import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flwr_decaf.report.runs import labels_of
from flwr_decaf.report.style import SIZE
from flwr_decaf.report.summary import read_metrics, score_in
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.score import score_of


def graph_by_score(folders: Sequence[RunFolder]) -> Figure | None:
    """Draw the graph of each method's first seed, with the nodes coloured by their last score."""
    drawn = {
        label: folder
        for label, folder in _first_of_each_method(folders).items()
        if "links" in folder.run.get("network", {}) and _last_scores(folder)[1]
    }
    if not drawn:
        return None
    names, each = zip(*map(_last_scores, drawn.values()), strict=True)
    scores = dict(zip(drawn, each, strict=True))
    everything = [value for nodes in scores.values() for value in nodes.values()]
    scale = ScalarMappable(Normalize(min(everything), max(everything)), "cividis")
    figure, grid = _grid(len(drawn), height=2.9)
    for axes, (label, folder) in zip(grid, drawn.items(), strict=False):
        network = folder.run["network"]
        graph = nx.empty_graph(network["nodes"])
        graph.add_weighted_edges_from(network["links"])
        draw_graph(
            axes,
            graph,
            [
                scale.to_rgba(scores[label][i]) if i in scores[label] else "white"
                for i in range(len(graph))
            ],
        )
        axes.set_title(textwrap.fill(label, 26), fontsize=10)
    figure.colorbar(scale, ax=list(grid), label=f"{names[0]} of the node", shrink=0.8)
    return figure


def score_by_node_and_round(folders: Sequence[RunFolder]) -> Figure | None:
    """Draw a heat map of every node's score in every evaluated round, for the first seed."""
    firsts = _first_of_each_method(folders)
    tables = {label: _scores_by_node(folder) for label, folder in firsts.items()}
    tables = {label: table for label, table in tables.items() if table.shape[1] > 1}
    if not tables:
        return None
    low, high = (
        float(f([f(t.to_numpy()) for t in tables.values()])) for f in (np.nanmin, np.nanmax)
    )
    figure, grid = _grid(len(tables), height=0.9 + 0.16 * max(map(len, tables.values())))
    for axes, (label, table) in zip(grid, tables.items(), strict=False):
        axes.set_axis_on()
        image = axes.imshow(table, "cividis", aspect="auto", vmin=low, vmax=high)
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
        axes.xaxis.set_major_formatter(partial(_round_at, list(table.columns)))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set(xlabel="round", ylabel="node", title=textwrap.fill(label, 34))
        axes.grid(visible=False)
    name = score_in(read_metrics(folders)).name
    figure.colorbar(image, ax=list(grid), label=name, shrink=0.8)
    return figure


def _round_at(rounds: Sequence[int], place: float, _: object) -> str:
    """Label a column of a heat map with its round; places between and beyond columns have none."""
    return str(rounds[int(place)]) if place in range(len(rounds)) else ""


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


def _last_scores(folder: RunFolder) -> tuple[str, dict[int, float]]:
    """Return the name of the score, and every node's score in the last evaluation."""
    score = score_of(folder.metrics)
    name = score.name if score else ""
    scored = [line for line in folder.metrics if name in line]
    last = max((line["round"] for line in scored), default=0)
    return name, {line["node"]: line[name] for line in scored if line["round"] == last}


def _first_of_each_method(folders: Sequence[RunFolder]) -> dict[str, RunFolder]:
    labels = labels_of(folders)
    firsts = dict(reversed(list(zip(labels, folders, strict=True))))
    return {label: firsts[label] for label in dict.fromkeys(labels)}


def _scores_by_node(folder: RunFolder) -> pd.DataFrame:
    metrics = read_metrics([folder])
    name = score_in(metrics).name
    known = metrics[metrics["phase"] == "evaluate"].dropna(subset=[name])
    return known.pivot_table(name, "node", "round")


def _grid(panels: int, height: float) -> tuple[Figure, list[Axes]]:
    """Create a figure with up to three panels per row, all of them hidden."""
    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(SIZE[0] * columns / 3 + 0.8, height * rows), layout="constrained")
    grid = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for axes in grid:
        axes.set_axis_off()
    return figure, grid
