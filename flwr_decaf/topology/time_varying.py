"""Graphs that change from round to round, drawn from a base graph as a function of seed and round.

Nobody needs to remember earlier rounds, so a run that is resumed in round t sees the graphs that
it would have seen. Adding one: a function here, a line in ``CHANGING``, a row in
tests/test_changing_graphs.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import networkx as nx

from flwr_decaf.seeds import derive_seed

Change = Callable[[nx.Graph, int, int, float], nx.Graph]


def static(base: nx.Graph, server_round: int, seed: int, probability: float) -> nx.Graph:
    """The base graph in every round."""
    return base


def edge_activation(base: nx.Graph, server_round: int, seed: int, probability: float) -> nx.Graph:
    """Each edge of the base is there with the same probability, independently of the others.

    Over a complete base that is an Erdos-Renyi graph drawn anew each round, as in TAD-LoRA
    (arXiv 2602.00451). A node without an edge keeps its own for the round.
    """
    draw = _generator(seed, "edge activation", server_round)
    return _with_edges(base, [edge for edge in _edges(base) if draw.random() < probability])


def one_peer_exponential(
    base: nx.Graph, server_round: int, seed: int, probability: float
) -> nx.Graph:
    """In round t pair the nodes that differ in bit ``(t - 1) mod ceil(log2 n)`` of their number.

    After log2(n) rounds of pure mixing all agree to the bit of rounding, if n is a power of two;
    else nodes without a partner in a round keep their own. The undirected form (one-peer
    hypercube) of the one-peer exponential graph of Ying et al. (arXiv 2110.13363), whose messages
    are directed: here W stays symmetric, so that a failed node can be left out. The base's edges
    do not matter.
    """
    n = len(base)
    bits = max((n - 1).bit_length(), 1)
    hop = 1 << ((server_round - 1) % bits)
    return _with_edges(base, [(i, i ^ hop) for i in range(n) if i < (i ^ hop) < n])


def random_matching(base: nx.Graph, server_round: int, seed: int, probability: float) -> nx.Graph:
    """Gossip in pairs: base edges in random order, each taken if both its ends are still free."""
    edges = _edges(base)
    _generator(seed, "random matching", server_round).shuffle(edges)
    free = set(base)
    chosen = []
    for i, j in edges:
        if {i, j} <= free:
            free -= {i, j}
            chosen.append((i, j))
    return _with_edges(base, chosen)


def token_walk(base: nx.Graph, server_round: int, seed: int, probability: float) -> nx.Graph:
    """One edge a round: that over which a token, on a random walk from node 0, moves."""
    draw = _generator(seed, "token walk", 0)
    here, there = 0, 0
    for _ in range(server_round):
        here, there = there, draw.choice(sorted(base[there]) or [there])
    return _with_edges(base, [(here, there)] if here != there else [])


CHANGING: dict[str, Change] = {
    "static": static,
    "edge-activation": edge_activation,
    "one-peer-exponential": one_peer_exponential,
    "random-matching": random_matching,
    "token-walk": token_walk,
}


def check_dynamic(name: str) -> None:
    """Refuse a name that is not in ``CHANGING``."""
    if name not in CHANGING:
        raise ValueError(
            f"topology.dynamic must be one of {', '.join(CHANGING)}; got {name!r}; take one of "
            "these, or list the graphs in topology.file"
        )


def _edges(base: nx.Graph) -> list[tuple[int, int]]:
    return sorted((min(edge), max(edge)) for edge in base.edges)


def _with_edges(base: nx.Graph, edges: list[tuple[int, int]]) -> nx.Graph:
    graph = nx.empty_graph(len(base))
    graph.add_edges_from(edges)
    return graph


def _generator(seed: int, purpose: str, server_round: int) -> random.Random:
    return random.Random(derive_seed(seed, purpose, server_round))
