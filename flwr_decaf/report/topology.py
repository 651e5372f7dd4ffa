"""Comparison of graphs: their shape, how fast they reach consensus, and their traffic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from rich.table import Table

from flwr_decaf.report.node_plots import draw_graph
from flwr_decaf.topology.graphs import Matrix
from flwr_decaf.topology.mixing_matrix import degrees_of, graph_of, rounds_to_shrink
from flwr_decaf.topology.network import Network, span


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


def period_lines(network: Network) -> list[str]:
    """Describe one period of a periodic network: its rounds, posts and consensus distances.

    The consensus distance after t rounds of pure mixing is relative to the initial distance, for
    models that are drawn independently: ``||W_t .. W_1 - 1 1^T / n|| / ||I - 1 1^T / n||``
    (Frobenius norms).
    """
    n, period = len(network.base), network.period or 1
    posts, product, distances = 0, np.eye(n), []
    for t in range(1, period + 1):
        w = network.of_round(t)
        posts += int(degrees_of(w).sum())
        product = w @ product
        distances.append(np.linalg.norm(product - 1 / n) / math.sqrt(max(n - 1, 1)))
    return [
        f"Period: {period} rounds, {posts / n:.1f} posts per node, "
        f"{posts / n / period:.2f} per round",
        "Consensus distance after each round: " + ", ".join(f"{abs(d):.3f}" for d in distances),
    ]


def topology_figure(networks: Mapping[str, Matrix], rates: Mapping[str, float]) -> Figure:
    """Draw networks side by side, each with its name and lambda2."""
    columns = min(len(networks), 4)
    rows = -(-len(networks) // columns)
    # Padding for the titles, which constrained layout ignores above hidden axes.
    layout = ConstrainedLayoutEngine(h_pad=0.15)
    figure = Figure(figsize=(2.8 * columns, 3.0 * rows), layout=layout)
    grid = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axes in grid:
        axes.axis("off")
    for axes, (name, w) in zip(grid, networks.items(), strict=False):
        draw_graph(axes, graph_of(w))
        axes.set_title(f"{name}\nlambda2 = {rates[name]:.3f}", fontsize=10)
    return figure


def save_topologies(networks: Mapping[str, Matrix], rates: Mapping[str, float], file: Path) -> None:
    """Save a drawing of networks; the file extension (.png, .svg, .pdf) selects the format."""
    file.parent.mkdir(parents=True, exist_ok=True)
    topology_figure(networks, rates).savefig(file, dpi=150)


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
        f"{max(degrees) * megabytes:.2f}",
        f"{sum(degrees) * megabytes:.2f}",
    ]
