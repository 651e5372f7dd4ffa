"""Mixing matrices W: how much of each neighbour a node takes.

W is n x n, non-negative, symmetric, its rows and columns sum to 1, and it is non-zero on the
graph's edges and the diagonal only. ``lambda2``, its second largest eigenvalue in magnitude, says
how fast pure mixing agrees: ``||X_t - mean|| <= lambda2**t ||X_0 - mean||``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from flwr_decaf.topology.given import Given, as_topology
from flwr_decaf.topology.graphs import Matrix, build_graph, read_topology
from flwr_decaf.topology.time_varying import Edges

_log = logging.getLogger("flwr")
_ROUNDING = 1e-9


class Links(NamedTuple):
    """The edges of a graph, of shape (edges, 2), and the weight of each."""

    edges: Edges
    weights: NDArray[np.float64]


def metropolis(edges: Edges, n: int) -> Matrix:
    """Metropolis-Hastings: w_ij = 1 / (1 + max(degree_i, degree_j)); needs local knowledge only."""
    return np.asarray(1.0 / (1 + _degrees(edges, n)[edges].max(axis=1)))


def uniform(edges: Edges, n: int) -> Matrix:
    """One weight for every edge, 1 / (1 + max degree): 1/3 on a ring, 1/n on a complete graph."""
    return np.full(len(edges), 1.0 / (1 + _degrees(edges, n).max()))


def laplacian(edges: Edges, n: int) -> Matrix:
    """Dec-LoRA's W = I - 2 L / (3 lambda_max(L)), L the graph's Laplacian (arXiv 2501.15361)."""
    lap = np.diag(_degrees(edges, n).astype(np.float64))
    lap[edges[:, 0], edges[:, 1]] = lap[edges[:, 1], edges[:, 0]] = -1.0
    largest = float(np.linalg.eigvalsh(lap)[-1])
    return np.full(len(edges), 2 / (3 * largest) if largest > 0 else 0.0)


# A rule gives each edge its weight; what a node's edges leave of 1 is the node's own.
WEIGHTS: dict[str, Callable[[Edges, int], Matrix]] = {
    "metropolis": metropolis,
    "uniform": uniform,
    "laplacian": laplacian,
}


def mixing_matrix(graph: nx.Graph, weights: str = "metropolis") -> Matrix:
    """Give a graph its mixing matrix.

    Parameters
    ----------
    graph : networkx.Graph
        Undirected, nodes 0 .. n-1.
    weights : str
        A key of ``WEIGHTS``.

    Returns
    -------
    ndarray
        W of shape (n, n), float64, checked.

    Raises
    ------
    ValueError
        If the weight rule is unknown or W breaks one of its properties.

    Examples
    --------
    >>> import networkx as nx
    >>> mixing_matrix(nx.path_graph(2)).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    check_weights(weights)
    edges, n = edges_of(graph), len(graph)
    return check_mixing_matrix(matrix_of(Links(edges, WEIGHTS[weights](edges, n)), n))


def check_weights(weights: str) -> None:
    """Refuse a name that is not in ``WEIGHTS``."""
    if weights not in WEIGHTS:
        raise ValueError(
            f"topology.weights must be one of {', '.join(WEIGHTS)}; got {weights!r}; take one of "
            "these, or give a matrix of your own with topology.file"
        )


def matrix_of(links: Links, n: int) -> Matrix:
    """Write links on n nodes as a mixing matrix; what they leave of 1 is the node's own."""
    w = np.zeros((n, n))
    i, j = links.edges.T
    w[i, j] = w[j, i] = links.weights
    np.fill_diagonal(w, np.maximum(1.0 - w.sum(axis=1), 0.0))
    return w


def links_of(w: Matrix) -> Links:
    """Read the links off a mixing matrix."""
    edges = np.argwhere(np.triu(w, 1))
    return Links(edges, w[edges[:, 0], edges[:, 1]])


def check_mixing_matrix(w: Matrix) -> Matrix:
    """Refuse a matrix that is not symmetric, non-negative and doubly stochastic; return it.

    Entries that rounding has left just below zero become zero.
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


def build_network(
    topology: Given,
    n: int,
    weights: str = "metropolis",
    seed: int = 0,
    topology_options: Mapping[str, Any] | None = None,
) -> Matrix:
    """Turn whatever describes a network into its mixing matrix, and warn if it is in pieces.

    Parameters
    ----------
    topology : str, path, networkx.Graph, ndarray, Tensor or list of lists
        The name of a family, a path to a ``.json`` file, a graph, or W itself: see
        ``given.as_topology``.
    n : int
        Number of nodes that are there.
    weights, seed, topology_options
        See ``mixing_matrix`` and ``topology.build_graph``; a matrix has no use for them.

    Returns
    -------
    ndarray
        W of shape (n, n).

    Raises
    ------
    ValueError
        If there is no such network on n nodes.
    """
    topology = as_topology(topology)
    alone_on_purpose = isinstance(topology, str) and topology == "isolated"
    if isinstance(topology, str) and topology.endswith(".json"):
        topology = read_topology(topology)
    if isinstance(topology, str):
        topology = build_graph(topology, n, seed, **(topology_options or {}))
    w = weigh(topology, n, weights)
    pieces = number_of_pieces(w)
    if pieces > 1 and not alone_on_purpose:
        _log.warning(
            "The graph is not connected (%d pieces, lambda2 = 1): the nodes never agree across "
            "pieces. Use another topology.seed, more edges, or a connected family.",
            pieces,
        )
    return w


def weigh(topology: nx.Graph | Matrix, n: int, weights: str) -> Matrix:
    """Give a graph on n nodes its mixing matrix; check one that is given.

    Raises
    ------
    ValueError
        If it is not for n nodes, or W breaks one of its properties.
    """
    if len(topology) != n:
        raise ValueError(
            f"the topology must have one place for each node, 0 to n-1; it has {len(topology)} and "
            f"there are n={n} nodes; change num-supernodes or the topology"
        )
    if isinstance(topology, nx.Graph):
        return mixing_matrix(topology, weights)
    return check_mixing_matrix(topology)


def graph_of(w: Matrix) -> nx.Graph:
    """Recover the graph from a mixing matrix: an edge wherever an off-diagonal weight is."""
    off_diagonal = np.array(w)
    np.fill_diagonal(off_diagonal, 0.0)
    return nx.from_numpy_array(off_diagonal)


def degrees_of(w: Matrix) -> NDArray[np.int64]:
    """Count each node's neighbours in a mixing matrix."""
    return _degrees(links_of(w).edges, len(w))


def number_of_pieces(w: Matrix) -> int:
    """Count the connected components of a mixing matrix's graph."""
    linked, unseen, pieces = w > 0, np.ones(len(w), dtype=bool), 0
    while unseen.any():
        pieces += 1
        frontier = np.flatnonzero(unseen)[:1]
        while len(frontier):
            unseen[frontier] = False
            frontier = np.flatnonzero(linked[frontier].any(axis=0) & unseen)
    return pieces


def lambda2(w: Matrix) -> float:
    """Second largest absolute eigenvalue of W; 0 for a single node."""
    magnitudes = np.sort(np.abs(np.linalg.eigvalsh(w)))[::-1]
    return float(min(magnitudes[1], 1.0)) if len(magnitudes) > 1 else 0.0


def rounds_to_shrink(rate: float, factor: float = 1000.0) -> float:
    """Rounds of pure mixing until the spread has shrunk by ``factor``; infinite if it never does.

    The smallest t with ``rate**t <= 1 / factor``, where ``rate`` is ``lambda2(W)``.
    """
    if rate >= 1 - _ROUNDING:
        return math.inf
    return 1.0 if rate < 1 / factor else float(math.ceil(math.log(factor) / -math.log(rate)))


def without_nodes(w: Matrix, missing: Collection[int]) -> Matrix:
    """Drop the links of nodes that are missing for a round.

    The weight of a dropped link goes to both its ends' own share, so that the matrix stays
    symmetric and doubly stochastic on those that are left, and the identity on the missing.

    Examples
    --------
    >>> without_nodes(np.full((3, 3), 1 / 3), {2}).round(2).tolist()
    [[0.67, 0.33, 0.0], [0.33, 0.67, 0.0], [0.0, 0.0, 1.0]]
    """
    kept = np.array(w)
    gone = list(missing)
    kept[gone, :] = 0.0
    kept[:, gone] = 0.0
    np.fill_diagonal(kept, 0.0)
    # Where the own weight is zero, rounding may leave the row's sum just above 1.
    np.fill_diagonal(kept, np.maximum(1.0 - kept.sum(axis=1), 0.0))
    return kept


def edges_of(graph: nx.Graph) -> Edges:
    """List a graph's edges, (i, j) with i < j in ascending order, without its self-loops."""
    pairs = np.array([edge[:2] for edge in graph.edges], dtype=np.int64).reshape(-1, 2)
    pairs.sort(axis=1)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    return pairs[np.lexsort(pairs.T[::-1])]


def _degrees(edges: Edges, n: int) -> NDArray[np.int64]:
    return np.bincount(edges.ravel(), minlength=n)
