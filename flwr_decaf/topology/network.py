"""Networks: the mixing matrix of every round, for graphs that stay and graphs that change."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import networkx as nx
import numpy as np

from flwr_decaf.topology.graphs import Matrix, read_rounds
from flwr_decaf.topology.mixing_matrix import build_network, graph_of, lambda2, mixing_matrix, weigh
from flwr_decaf.topology.time_varying import CHANGING, check_dynamic

_SAMPLES = 500  # rounds over which rho is estimated
_NEVER = 1 - 1e-9  # a rho from here on is 1: the nodes never agree


class Network(NamedTuple):
    """Who takes how much of whom.

    Attributes
    ----------
    base : ndarray
        W of the graph from which the rounds' graphs are drawn, of shape (n, n).
    of_round : callable
        Round, from 1 -> W of that round; symmetric and doubly stochastic like any other.
    changes : bool
        Whether rounds differ.
    """

    base: Matrix
    of_round: Callable[[int], Matrix]
    changes: bool


def build_changing_network(
    topology: str | nx.Graph | Matrix,
    n: int,
    weights: str = "metropolis",
    seed: int = 0,
    topology_options: Mapping[str, Any] | None = None,
    dynamic: str = "static",
) -> Network:
    """Turn whatever describes a network into the mixing matrix of every round.

    Parameters
    ----------
    topology, n, weights, seed
        See ``mixing_matrix.build_network``. A file may also list graphs, which take turns.
    topology_options : mapping, optional
        ``edge_probability`` and ``degree`` of the base, ``activation_probability`` of its edges.
    dynamic : str
        A key of ``changing_graphs.CHANGING``.

    Raises
    ------
    ValueError
        If there is no such network on n nodes, or it is a matrix or a list and ``dynamic`` asks
        for graphs drawn from it.

    Examples
    --------
    >>> network = build_changing_network("ring", 4, dynamic="one-peer-exponential")
    >>> (network.of_round(1) @ network.of_round(2)).tolist()[0]
    [0.25, 0.25, 0.25, 0.25]
    """
    check_dynamic(dynamic)
    options = {**(topology_options or {})}
    probability = float(options.pop("activation_probability", 0.5))
    is_file = isinstance(topology, str) and topology.endswith(".json")
    listed = read_rounds(str(topology)) if is_file else []
    if dynamic != "static" and (listed or isinstance(topology, np.ndarray)):
        raise ValueError(
            f"topology.dynamic draws from a graph; got {dynamic!r} with a matrix or a list of "
            'graphs; set it to "static", or describe the base by edges'
        )
    if listed:
        each = [weigh(one, n, weights) for one in listed]
        mean = np.mean(each, axis=0)
        return Network(mean, lambda t: each[(t - 1) % len(each)], changes=True)
    base = build_network(topology, n, weights, seed, options)
    if dynamic == "static":
        return Network(base, lambda t: base, changes=False)
    graph, change = graph_of(base), CHANGING[dynamic]

    @lru_cache(maxsize=4)
    def of_round(server_round: int) -> Matrix:
        return mixing_matrix(change(graph, server_round, seed, probability), weights)

    return Network(base, of_round, changes=True)


def rho(network: Network) -> float:
    """Second largest eigenvalue of E[W^T W], which says how fast a changing network agrees.

    E||X_t - mean||^2 <= rho^t ||X_0 - mean||^2 (Boyd et al. 2006). For a graph that stays it is
    ``lambda2(W)**2``; for one that changes, the expectation is the mean over the first 500 rounds.
    """
    rounds = range(1, _SAMPLES + 1) if network.changes else (1,)
    total = np.zeros_like(network.base)
    for server_round in rounds:
        w = network.of_round(server_round)
        total += w.T @ w
    return lambda2(total / len(rounds))


def phase_length(network: Network) -> int:
    """Rounds of one phase that TAD-LoRA's analysis asks for: 1 / sqrt(1 - rho), rounded.

    The paper (arXiv 2602.00451) gives T* = Theta(1 / sqrt(1 - rho)); its constant is 1 here.

    Raises
    ------
    ValueError
        If rho is 1: the nodes never agree, and no T helps.
    """
    value = rho(network)
    if value >= _NEVER:
        raise ValueError(
            "tad.phase-length = auto needs a network on which the nodes agree in time; got rho = 1 "
            "(in pieces, whatever the round); connect the graph, or give the length as a number"
        )
    return max(1, round(1 / math.sqrt(1 - value)))


def describe(network: Network) -> list[str]:
    """Say in a few words how many edges a network has, and how fast it agrees."""
    graph = graph_of(network.base)
    degrees = sorted({degree for _, degree in graph.degree})
    lines = [
        f"Nodes: {len(graph)}, edges: {len(graph.edges)}, degree: {degrees[0]} to {degrees[-1]}",
        f"lambda2: {lambda2(network.base):.4f}",
    ]
    return [*lines, f"rho: {rho(network):.4f}"] if network.changes else lines
