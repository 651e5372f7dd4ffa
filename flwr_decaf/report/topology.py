"""Comparison of graphs: their shape, how fast they reach consensus, and their traffic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from rich.table import Table

from flwr_decaf.report.node_plots import draw_graph
from flwr_decaf.topology.graphs import Matrix
from flwr_decaf.topology.mixing_matrix import degrees_of, graph_of, rounds_to_shrink
from flwr_decaf.topology.network import span


def topology_table(
    networks: Mapping[str, Matrix],
    rates: Mapping[str, float],
    adapter_bytes: float,
    time_varying: bool = False,
) -> Table:
    """Tabulate networks by their mixing matrices.

    "Rounds to shrink 1000x" is the number of rounds of pure mixing that reduce the consensus
    distance to a thousandth.

    Parameters
    ----------
    networks : mapping of str to ndarray
        Name -> W, of shape (n, n).
    rates : mapping of str to float
        Name -> ``lambda2(W)``, passed in because it is slow to compute for thousands of nodes.
    adapter_bytes : float
        Size of a node's post in a round, in bytes.
    time_varying : bool
        Whether the graphs are the base graphs of time-varying ones, which use only some of the
        edges in each round; by default False.
    """
    title = f"for posts of {adapter_bytes / 1e6:g} MB"
    title += ", if every round used all edges" if time_varying else ""
    table = Table(title=title, box=None, padding=(0, 1, 0, 0))
    table.add_column("topology", no_wrap=True)
    for heading in (
        "nodes", "edges", "degree", "lambda2", "spectral\ngap", "rounds to\nshrink 1000x",
        "MB/round\nbusiest", "MB/round\nall",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for name, w in networks.items():
        table.add_row(name, *_row(w, rates[name], adapter_bytes / 1e6))
    return table


def period_table(rounds: Sequence[Matrix], adapter_bytes: float) -> Table:
    """Tabulate one period of a periodic network, round by round.

    The consensus distance after t rounds of pure mixing is relative to the initial distance, for
    models that are drawn independently: ``||W_t .. W_1 - 1 1^T / n|| / ||I - 1 1^T / n||``
    (Frobenius norms).

    Parameters
    ----------
    rounds : sequence of ndarray
        W of each round of a period, of shape (n, n).
    adapter_bytes : float
        Size of a node's post, in bytes.
    """
    n, megabytes = len(rounds[0]), adapter_bytes / 1e6
    product, posts = np.eye(n), np.zeros(n, dtype=np.int64)
    heading = f"a period of {len(rounds)} rounds of {n} nodes, for posts of {megabytes:g} MB"
    table = Table(title=heading, box=None, padding=(0, 1, 0, 0), show_footer=True)
    rows = []
    for t, w in enumerate(rounds, start=1):
        degrees = degrees_of(w)
        posts += degrees
        product = w @ product
        distance = abs(np.linalg.norm(product - 1 / n)) / math.sqrt(max(n - 1, 1))
        rows.append([f"{t}", span(degrees), *_traffic(degrees, megabytes), f"{distance:.3f}"])
    total = ["period", f"{posts.mean():.1f} on average", *_traffic(posts, megabytes), ""]
    headings = ("round", "posts per node", "MB\nbusiest", "MB\nall", "consensus\ndistance after")
    for name, footer in zip(headings, total, strict=True):
        table.add_column(name, footer, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def topology_figure(networks: Mapping[str, Matrix]) -> Figure:
    """Draw networks side by side, each below its title."""
    columns = min(len(networks), 4)
    rows = -(-len(networks) // columns)
    # Padding for the titles, which constrained layout ignores above hidden axes.
    layout = ConstrainedLayoutEngine(h_pad=0.15)
    figure = Figure(figsize=(2.8 * columns, 3.0 * rows), layout=layout)
    grid = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axes in grid:
        axes.axis("off")
    for axes, (title, w) in zip(grid, networks.items(), strict=False):
        draw_graph(axes, graph_of(w))
        axes.set_title(title, fontsize=10)
    return figure


def save_topologies(networks: Mapping[str, Matrix], file: Path) -> None:
    """Save a drawing of networks, by title; the file extension (.png, .svg) sets the format."""
    file.parent.mkdir(parents=True, exist_ok=True)
    topology_figure(networks).savefig(file, dpi=150)


def _row(w: Matrix, rate: float, megabytes: float) -> list[str]:
    graph = graph_of(w)
    degrees = [degree for _, degree in graph.degree]
    rounds = rounds_to_shrink(rate)
    return [
        f"{len(graph)}",
        f"{len(graph.edges)}",
        span(degrees),
        f"{rate:.4f}",
        f"{1 - rate:.4f}",
        "never" if math.isinf(rounds) else f"{rounds:.0f}",
        *_traffic(degrees, megabytes),
    ]


def _traffic(posts: Sequence[int] | NDArray[np.int64], megabytes: float) -> list[str]:
    """Return what the busiest node and all nodes send, in MB."""
    return [f"{max(posts) * megabytes:.2f}", f"{sum(posts) * megabytes:.2f}"]
