"""Conversion of the topologies that users may pass to one of three forms."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np

from flwr_decaf.topology.graphs import Matrix, check_name

TopologyLike = str | os.PathLike[str] | nx.Graph | Matrix | Sequence[Sequence[float]]
_FORMS = (
    "the name of a family, a path to a .json file, an undirected networkx graph, or a mixing matrix"
)


def as_topology(given: Any) -> str | nx.Graph | Matrix:
    """Convert a topology to a name, a graph or a matrix.

    Parameters
    ----------
    given : str, path, networkx.Graph, ndarray, Tensor, sparse array or list of lists
        A name of ``TOPOLOGIES``; a ``.json`` file; a graph on nodes 0 .. n-1; or a mixing matrix.
        A directed graph is accepted if it has the reverse of every edge, and a multigraph if it has
        no parallel edges. Self-loops are ignored: the mixing matrix determines the weight that a
        node gives to itself.

    Returns
    -------
    str, networkx.Graph or ndarray
        The name or path; a simple graph; or a matrix of dtype float64.

    Raises
    ------
    ValueError
        If the name, the file's suffix, the nodes, the edges or their weights are not valid.
    TypeError
        If the argument has none of these types.
    """
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
        if not given.endswith(".json"):
            raise ValueError(f"a topology file must end in .json; got {given!r}; rename the file")
    if isinstance(given, str):
        if not given.endswith(".json"):
            check_name(given)
        return given
    return _simple(given) if isinstance(given, nx.Graph) else _matrix(given)


def _simple(graph: nx.Graph) -> nx.Graph:
    """Check the nodes, directions and weights of a graph, and return a copy without self-loops."""
    n = len(graph)
    if set(graph) != set(range(n)):
        odd = next(node for node in graph if node not in range(n))
        raise ValueError(
            f"a topology's nodes must be the integers 0 to n-1; got {odd!r} among {n} nodes; "
            "relabel them with networkx.convert_node_labels_to_integers(graph)"
        )
    for i, j, weight in graph.edges(data="weight", default=1):
        if weight != 1:
            raise ValueError(
                f"a topology's edges must have no weights; got {weight} on edge ({i}, {j}); pass "
                "a mixing matrix instead, or remove the weights and name a rule with weights="
            )
        if graph.is_directed() and not graph.has_edge(j, i):
            raise ValueError(
                f"a topology must be undirected; got a directed graph with edge ({i}, {j}) but "
                "not its reverse; add it, or pass graph.to_undirected()"
            )
        if graph.is_multigraph() and graph.number_of_edges(i, j) > 1:
            raise ValueError(
                f"a topology must have one edge between two nodes; got several between {i} and "
                f"{j}; pass networkx.Graph(graph)"
            )
    simple = nx.empty_graph(n)
    simple.add_edges_from((i, j) for i, j in graph.edges() if i != j)
    return simple


def _matrix(given: Any) -> Matrix:
    if hasattr(given, "detach"):  # a tensor of PyTorch
        given = given.detach().cpu().double().numpy()
    if hasattr(given, "toarray"):  # a sparse array of SciPy
        given = given.toarray()
    try:
        matrix = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"a topology must be {_FORMS}; got {_short(given)} of type {type(given).__name__}; "
            'write e.g. topology="ring"'
        ) from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise (TypeError if matrix.ndim == 0 else ValueError)(
            f"a topology must be {_FORMS}; got {_short(given)} of type {type(given).__name__}; a "
            "matrix must be square; for a list of edges, pass networkx.Graph(edges)"
        )
    return matrix


def _short(given: object) -> str:
    text = " ".join(repr(given).split())
    return text if len(text) < 60 else f"{text[:57]}..."
