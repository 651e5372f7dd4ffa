"""Spanning trees, along which RelaySum forwards models."""

from __future__ import annotations

import logging

import networkx as nx

from flwr_decaf.topology.mixing_matrix import (
    graph_of,
    links_of,
    mixing_matrix,
    number_of_components,
)
from flwr_decaf.topology.network import Network

_log = logging.getLogger("flwr")


def spanning_tree(graph: nx.Graph) -> nx.Graph:
    """Return the breadth-first tree of a connected graph from the node of highest degree.

    Ties between nodes of the same degree, and the order of neighbours, go by node number. The
    spanning tree of a tree is the tree itself.

    Examples
    --------
    >>> import networkx as nx
    >>> sorted(spanning_tree(nx.cycle_graph(5)).edges)
    [(0, 1), (0, 4), (1, 2), (3, 4)]
    """
    tree = nx.empty_graph(len(graph))
    root = max(sorted(graph), key=graph.degree)
    tree.add_edges_from(nx.bfs_edges(graph, root, sort_neighbors=sorted))
    return tree


def tree_network(network: Network) -> Network:
    """Reduce a constant network to a spanning tree of its graph, with Metropolis weights.

    Raises
    ------
    ValueError
        If the graph is time-varying, or not connected.
    """
    if network.is_time_varying:
        raise ValueError(
            "topology.dynamic must be static for a tree, along which models are forwarded over "
            "several rounds; got a time-varying graph; omit it, or use another strategy"
        )
    if (components := number_of_components(network.base)) > 1:
        raise ValueError(
            f"topology must be connected to have a spanning tree; got {components} components; use "
            "binary-tree, star or another connected graph"
        )
    graph = graph_of(network.base)
    tree = spanning_tree(graph)
    if nx.number_of_edges(tree) < nx.number_of_edges(graph):
        _log.info("Spanning tree: edges %s", sorted(tuple(sorted(edge)) for edge in tree.edges))
    w = mixing_matrix(tree)
    return Network(w, lambda server_round: links_of(w))
