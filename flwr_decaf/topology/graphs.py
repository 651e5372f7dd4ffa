"""Communication graphs: a name, a number of nodes and a seed -> an undirected networkx graph.

Nodes are 0 .. n-1, without self-loops: the mixing matrix determines the weight that a node gives to
itself. To add a family, write a function here, a line in ``TOPOLOGIES``, and a row in
tests/topology/test_graphs.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import networkx as nx
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
T = TypeVar("T")


def complete(n: int, seed: int) -> nx.Graph:
    """Connect every pair of nodes: degree n - 1."""
    return nx.complete_graph(n)


def ring(n: int, seed: int) -> nx.Graph:
    """Connect each node to the previous and the next one; for n = 2, a single edge."""
    return _circulant(n, [1])


def path(n: int, seed: int) -> nx.Graph:
    """Build a ring without one of its edges."""
    return nx.path_graph(n)


def star(n: int, seed: int) -> nx.Graph:
    """Connect node 0 to all others."""
    return nx.star_graph(n - 1)


def binary_tree(n: int, seed: int) -> nx.Graph:
    """Connect node i to nodes 2 i + 1 and 2 i + 2: a tree of diameter about 2 log2(n)."""
    return nx.full_rary_tree(2, n)


def bipartite(n: int, seed: int) -> nx.Graph:
    """Connect two hubs to all other nodes but not to each other, as in the DeCAF paper."""
    return nx.complete_bipartite_graph(2, n - 2) if n > 2 else nx.path_graph(n)


def torus(n: int, seed: int) -> nx.Graph:
    """Build a periodic grid of n nodes that is as nearly square as possible; a ring for prime n."""
    rows = next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0)
    grid = nx.grid_2d_graph(rows, n // rows, periodic=True)
    return _simple(nx.convert_node_labels_to_integers(grid, ordering="sorted"))


def exponential(n: int, seed: int) -> nx.Graph:
    """Connect node i to nodes i +- 1, 2, 4, 8, ... modulo n: degree about 2 log2(n)."""
    return _circulant(n, [2**k for k in range(max(n - 1, 1).bit_length())])


def erdos_renyi(n: int, seed: int, edge_probability: float = 0.5) -> nx.Graph:
    """Include each possible edge with the same probability; the graph may be disconnected."""
    return nx.gnp_random_graph(n, edge_probability, seed=seed)


def random_regular(n: int, seed: int, degree: int = 4) -> nx.Graph:
    """Draw a random graph in which every node has the same ``degree``, by default 4.

    Raises
    ------
    ValueError
        If there is no such graph: the degree must be below n, and n * degree even.
    """
    if not 0 <= degree < n or n * degree % 2:
        raise ValueError(
            "topology random-regular needs 0 <= degree < n and n * degree even; got "
            f"topology.degree={degree} with n={n}; choose another topology.degree"
        )
    return nx.random_regular_graph(degree, n, seed=seed)


def small_world(n: int, seed: int, degree: int = 4, edge_probability: float = 0.5) -> nx.Graph:
    """Connect each node to its ``degree`` nearest ones, and rewire edges (Watts and Strogatz).

    Raises
    ------
    ValueError
        If the degree is below 2 or above n - 1.
    """
    if not 2 <= degree <= n - 1:
        raise ValueError(
            "topology small-world needs 2 <= degree <= n - 1; got "
            f"topology.degree={degree} with n={n}; choose another topology.degree"
        )
    return nx.watts_strogatz_graph(n, degree, edge_probability, seed=seed)


def isolated(n: int, seed: int) -> nx.Graph:
    """Build a graph without edges: every node trains alone (the local-only baseline)."""
    return nx.empty_graph(n)


Family = Callable[..., nx.Graph]

TOPOLOGIES: dict[str, Family] = {
    "complete": complete,
    "ring": ring,
    "path": path,
    "star": star,
    "binary-tree": binary_tree,
    "bipartite": bipartite,
    "torus": torus,
    "exponential": exponential,
    "erdos-renyi": erdos_renyi,
    "random-regular": random_regular,
    "small-world": small_world,
    "isolated": isolated,
}


def build_graph(name: str, n: int, seed: int = 0, **options: Any) -> nx.Graph:
    """Build a graph of a named family.

    Parameters
    ----------
    name : str
        A key of ``TOPOLOGIES``.
    n : int
        Number of nodes, at least 1.
    seed : int
        Seed of the random families, by default 0.
    **options
        ``edge_probability`` (erdos-renyi, small-world; by default 0.5) and ``degree``
        (random-regular, small-world; by default 4). Other families ignore them.

    Returns
    -------
    networkx.Graph
        Nodes 0 .. n-1, no self-loops.

    Raises
    ------
    ValueError
        If the name is unknown, n < 1, or no such graph exists; the message states the condition.

    Examples
    --------
    >>> sorted(build_graph("ring", 4).edges)
    [(0, 1), (0, 3), (1, 2), (2, 3)]
    """
    check_name(name)
    if n < 1:
        raise ValueError(f"a topology needs n >= 1 nodes; got n={n}; increase num-supernodes")
    family = TOPOLOGIES[name]
    taken = family.__code__.co_varnames[: family.__code__.co_argcount]
    return family(n, seed, **{key: value for key, value in options.items() if key in taken})


def check_name(name: str) -> None:
    """Reject a name that is not in ``TOPOLOGIES``.

    Raises
    ------
    ValueError
        If there is no such family.
    """
    if name not in TOPOLOGIES:
        raise ValueError(
            f"topology.name must be one of {', '.join(TOPOLOGIES)}; got {name!r}; for your own "
            "graph, set topology.file, or pass a strategy a networkx graph or a mixing matrix"
        )


def read_topology(file: str | Path) -> nx.Graph | Matrix:
    """Read a graph or a mixing matrix from a JSON file.

    Parameters
    ----------
    file : str or Path
        Contains ``{"edges": [[0, 1], [1, 2]]}``, with an optional ``"nodes": n``, or
        ``{"matrix": [[...], ...]}``, which is checked and used unchanged.

    Returns
    -------
    networkx.Graph or ndarray
        A graph on nodes 0 .. n-1, or the mixing matrix.

    Raises
    ------
    ValueError
        If the file cannot be read as either.
    """
    return _read(file, _one_network)


def read_rounds(file: str | Path) -> list[nx.Graph | Matrix]:
    """Read a list of networks that are used in turn: ``{"rounds": [{"edges": ...}, ...]}``.

    Parameters
    ----------
    file : str or Path
        A JSON file in which each item is a network as in ``read_topology``.

    Returns
    -------
    list of networkx.Graph or ndarray
        Empty if the file describes a single network.

    Raises
    ------
    ValueError
        If the file cannot be read.
    """
    return _read(file, lambda content: [_one_network(one) for one in content.get("rounds", [])])


def _read(file: str | Path, parse: Callable[[Any], T]) -> T:
    try:
        return parse(json.loads(Path(file).read_text(encoding="utf8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            'topology.file must be a JSON file with {"edges": [[0, 1], ...]}, '
            '{"matrix": [[...], ...]}, or several of these under "rounds"; '
            f"got {str(file)!r} ({type(error).__name__}: {error}); fix the file"
        ) from error


def _one_network(content: Any) -> nx.Graph | Matrix:
    if "matrix" in content:
        return np.array(content["matrix"], dtype=np.float64)
    edges = [(int(a), int(b)) for a, b in content["edges"]]
    n = int(content["nodes"] if "nodes" in content else 1 + max(max(edge) for edge in edges))
    graph = nx.empty_graph(n)
    graph.add_edges_from(edges)
    return _simple(graph)


def _circulant(n: int, offsets: list[int]) -> nx.Graph:
    return _simple(nx.circulant_graph(n, [offset % n for offset in offsets]))


def _simple(graph: nx.Graph) -> nx.Graph:
    # For small n, a neighbour may coincide with the node itself; that is not an edge.
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    return graph
