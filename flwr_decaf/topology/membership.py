"""Open membership: the network of the nodes that are there, among all numbers that nodes may have.

A node keeps its number while others come and go. The graph is built for the nodes that are there,
in the order of their numbers, and W is the identity on all others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import networkx as nx
import numpy as np

from flwr_decaf.topology.graphs import Matrix
from flwr_decaf.topology.mixing_matrix import Links
from flwr_decaf.topology.network import Network

NOT_FOR_ANY_SIZE = ("random-regular", "small-world")  # families with conditions on the number


def among(network: Network, members: Sequence[int], size: int) -> Network:
    """Place a network on some of the nodes.

    Parameters
    ----------
    network : Network
        Network on ``len(members)`` nodes.
    members : sequence of int
        The nodes that are there, in ascending order; the first takes the place of node 0.
    size : int
        Number of all nodes, 0 to size - 1.

    Returns
    -------
    Network
        Network on ``size`` nodes, in which the others have no links. Its matrices are symmetric and
        doubly stochastic if those of ``network`` are.

    Examples
    --------
    >>> from flwr_decaf.topology.network import build_time_varying_network
    >>> among(build_time_varying_network("ring", 2), members=[0, 2], size=3).base.tolist()
    [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]
    """
    places = np.array(members, dtype=np.int64)

    def links(server_round: int) -> Links:
        there = network.links(server_round)
        return Links(places[there.edges], there.weights)

    base = np.eye(size)
    base[np.ix_(places, places)] = network.base
    return Network(base, links, network.period)


def closest(newcomer: int, w: Matrix, settled: Collection[int]) -> int | None:
    """Choose the node from whose model a newcomer starts.

    Parameters
    ----------
    newcomer : int
        The node that joins.
    w : ndarray
        Mixing matrix of the network with the newcomer.
    settled : collection of int
        Nodes that have a model.

    Returns
    -------
    int or None
        The settled neighbour with the largest weight, or the first of several; if no neighbour is
        settled, the first settled node; None if the newcomer has no neighbours at all.

    Examples
    --------
    >>> closest(1, np.array([[0.5, 0.2, 0.3], [0.2, 0.4, 0.4], [0.3, 0.4, 0.3]]), settled=[0, 2])
    2
    """
    neighbours = [int(j) for j in np.flatnonzero(w[newcomer]) if j != newcomer]
    candidates = [j for j in neighbours if j in settled] or sorted(settled)
    if not neighbours or not candidates:
        return None
    return max(candidates, key=lambda j: float(w[newcomer, j]))


def check_any_size(topology: str | nx.Graph | Matrix) -> None:
    """Require a family of graphs that exist on any number of nodes.

    Raises
    ------
    ValueError
        If ``topology`` is a file, a graph or a matrix, or a family with conditions on the number.
    """
    if not isinstance(topology, str) or topology.endswith(".json"):
        name = topology if isinstance(topology, str) else type(topology).__name__
        raise ValueError(
            "topology.membership must be closed with a given graph or matrix, which is for one "
            f"number of nodes; got open with {name}; name a family in topology.name"
        )
    if topology in NOT_FOR_ANY_SIZE:
        raise ValueError(
            f"topology.membership must be closed with topology.name {topology}, which does not "
            "exist for every number of nodes; got open; use another family, e.g. exponential"
        )
