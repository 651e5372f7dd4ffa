"""Mixing matrices W: the weight with which a node averages each neighbour's state.

W is of shape (n, n), non-negative and symmetric, its rows and columns sum to 1, and it is non-zero
only on the diagonal and the graph's edges. ``lambda2``, its second largest eigenvalue in magnitude,
determines how fast pure mixing converges: ``||X_t - mean|| <= lambda2**t ||X_0 - mean||``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from flwr_decaf.topology.conversion import TopologyLike, as_topology
from flwr_decaf.topology.graphs import Matrix, build_graph, read_topology
from flwr_decaf.topology.time_varying import Edges
from flwr_decaf.topology.weights import WEIGHTS, check_weights, node_degrees

_log = logging.getLogger("flwr")
_ROUNDING = 1e-9


class Links(NamedTuple):
    """The edges of a graph, of shape (edges, 2), and the weight of each."""

    edges: Edges
    weights: NDArray[np.float64]


def mixing_matrix(graph: nx.Graph, weights: str = "metropolis") -> Matrix:
    """Compute the mixing matrix of a graph.

    Parameters
    ----------
    graph : networkx.Graph
        Undirected, on nodes 0 .. n-1.
    weights : str
        A key of ``WEIGHTS``, by default "metropolis".

    Returns
    -------
    ndarray
        W of shape (n, n), float64.

    Raises
    ------
    ValueError
        If the weight rule is unknown, or W is not a valid mixing matrix.

    Examples
    --------
    >>> import networkx as nx
    >>> mixing_matrix(nx.path_graph(2)).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    check_weights(weights)
    edges, n = edges_of(graph), len(graph)
    return check_mixing_matrix(matrix_of(Links(edges, WEIGHTS[weights](edges, n)), n))


def matrix_of(links: Links, n: int) -> Matrix:
    """Convert links on n nodes to a mixing matrix; the diagonal makes each row sum to 1."""
    w = np.zeros((n, n))
    i, j = links.edges.T
    w[i, j] = w[j, i] = links.weights
    np.fill_diagonal(w, np.maximum(1.0 - w.sum(axis=1), 0.0))
    return w


def links_of(w: Matrix) -> Links:
    """List the links of a mixing matrix."""
    edges = np.argwhere(np.triu(w, 1))
    return Links(edges, w[edges[:, 0], edges[:, 1]])


def check_mixing_matrix(w: Matrix) -> Matrix:
    """Require a matrix to be symmetric, non-negative and doubly stochastic.

    Returns
    -------
    ndarray
        The matrix; entries just below zero, due to rounding, are set to zero.

    Raises
    ------
    ValueError
        If it is not a valid mixing matrix; the message names the first violation.
    """
    problem = None
    if w.ndim != 2 or w.shape[0] != w.shape[1]:
        problem = f"be square; got shape {w.shape}"
    elif not np.all(np.isfinite(w)) or w.min() < -_ROUNDING:
        problem = f"be finite and >= 0; its smallest entry is {w.min()}"
    elif np.abs(w - w.T).max() > _ROUNDING:
        i, j = np.unravel_index(int(np.abs(w - w.T).argmax()), w.shape)
        problem = f"be symmetric; w[{i}][{j}]={w[i, j]} but w[{j}][{i}]={w[j, i]}"
    elif np.abs(w.sum(axis=1) - 1).max() > _ROUNDING:
        row = int(np.abs(w.sum(axis=1) - 1).argmax())
        problem = f"have rows that sum to 1; row {row} sums to {w[row].sum()}"
    if problem:
        raise ValueError(f"a mixing matrix must {problem}; fix the matrix or name a weight rule")
    return np.maximum(w, 0.0)


def build_mixing_matrix(
    topology: TopologyLike,
    n: int,
    weights: str = "metropolis",
    seed: int = 0,
    topology_options: Mapping[str, Any] | None = None,
) -> Matrix:
    """Build the mixing matrix of a network, and warn if its graph is not connected.

    Parameters
    ----------
    topology : str, path, networkx.Graph, ndarray, Tensor or list of lists
        The name of a family, a path to a ``.json`` file, a graph, or W itself: see
        ``conversion.as_topology``.
    n : int
        Number of nodes.
    weights : str
        A key of ``WEIGHTS``, by default "metropolis"; not used with a matrix.
    seed : int
        Seed of the random families, by default 0.
    topology_options : mapping, optional
        The options of ``graphs.build_graph``.

    Returns
    -------
    ndarray
        W of shape (n, n).

    Raises
    ------
    ValueError
        If there is no such network on n nodes.
    TypeError
        If the topology has none of these types.
    """
    topology = as_topology(topology)
    is_isolated = isinstance(topology, str) and topology == "isolated"  # on purpose
    if isinstance(topology, str) and topology.endswith(".json"):
        topology = read_topology(topology)
    if isinstance(topology, str):
        topology = build_graph(topology, n, seed, **(topology_options or {}))
    w = as_mixing_matrix(topology, n, weights)
    components = number_of_components(w)
    if components > 1 and not is_isolated:
        _log.warning(
            "The graph is not connected (%d components, lambda2 = 1): nodes of different "
            "components never agree. Use another topology.seed, more edges, or a connected family.",
            components,
        )
    return w


def as_mixing_matrix(topology: nx.Graph | Matrix, n: int, weights: str) -> Matrix:
    """Compute the mixing matrix of a graph on n nodes, or check a given matrix.

    Raises
    ------
    ValueError
        If the topology is not for n nodes, or W is not a valid mixing matrix.
    """
    if len(topology) != n:
        raise ValueError(
            f"the topology must be for n={n} nodes, 0 to n-1; got one for {len(topology)} nodes; "
            "change num-supernodes or the topology"
        )
    if isinstance(topology, nx.Graph):
        return mixing_matrix(topology, weights)
    return check_mixing_matrix(topology)


def graph_of(w: Matrix) -> nx.Graph:
    """Return the graph of a mixing matrix, with an edge for each non-zero off-diagonal weight."""
    off_diagonal = np.array(w)
    np.fill_diagonal(off_diagonal, 0.0)
    return nx.from_numpy_array(off_diagonal)


def degrees_of(w: Matrix) -> NDArray[np.int64]:
    """Count the neighbours of each node in a mixing matrix."""
    return node_degrees(links_of(w).edges, len(w))


def number_of_components(w: Matrix) -> int:
    """Count the connected components of a mixing matrix's graph."""
    linked, unseen, components = w > 0, np.ones(len(w), dtype=bool), 0
    while unseen.any():
        components += 1
        frontier = np.flatnonzero(unseen)[:1]
        while len(frontier):
            unseen[frontier] = False
            frontier = np.flatnonzero(linked[frontier].any(axis=0) & unseen)
    return components


def lambda2(w: Matrix) -> float:
    """Return the second largest absolute eigenvalue of W; 0 for a single node."""
    magnitudes = np.sort(np.abs(np.linalg.eigvalsh(w)))[::-1]
    return float(min(magnitudes[1], 1.0)) if len(magnitudes) > 1 else 0.0


def rounds_to_shrink(rate: float, factor: float = 1000.0) -> float:
    """Return the number of rounds of pure mixing that reduce the consensus distance by ``factor``.

    This is the smallest t with ``rate**t <= 1 / factor``, where ``rate`` is ``lambda2(W)``; it is
    infinite if ``rate`` is 1. By default, ``factor`` is 1000.
    """
    if rate >= 1 - _ROUNDING:
        return math.inf
    return 1.0 if rate < 1 / factor else float(math.ceil(math.log(factor) / -math.log(rate)))


def edges_of(graph: nx.Graph) -> Edges:
    """List the edges of a graph, (i, j) with i < j in ascending order, without self-loops."""
    pairs = np.array([edge[:2] for edge in graph.edges], dtype=np.int64).reshape(-1, 2)
    pairs.sort(axis=1)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    return pairs[np.lexsort(pairs.T[::-1])]
