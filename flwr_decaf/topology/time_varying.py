"""Time-varying graphs, drawn from a base graph as a function of seed and round.

A family takes the edges of the base graph and returns a function from the round, counted from 1, to
its edges. These depend only on the seed and the round, so a run that is resumed in round t uses the
same graphs as an uninterrupted one. To add a family, write a function here, a line in
``TIME_VARYING``, and a row in tests/topology/test_time_varying.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flwr_decaf.seeds import derive_seed
from flwr_decaf.topology.base_graphs import Round, base_graphs

Edges = NDArray[np.int64]  # of shape (edges, 2): rows (i, j) with i < j, in ascending order
Draw = Callable[[int], Edges]
TimeVarying = Callable[[Edges, int, int, float], Draw]


def static(base: Edges, n: int, seed: int, probability: float) -> Draw:
    """Use the base graph in every round."""
    return lambda server_round: base


def edge_activation(base: Edges, n: int, seed: int, probability: float) -> Draw:
    """Activate each edge of the base with the same probability, independently of the others.

    On a complete base, this draws a new Erdos-Renyi graph in each round, as in TAD-LoRA
    (arXiv 2602.00451). A node without an active edge keeps its own factors for the round.
    """

    def draw(server_round: int) -> Edges:
        chances = _uniform(seed, "edge activation", server_round, len(base))
        return base[chances < probability]

    return draw


def one_peer_exponential(base: Edges, n: int, seed: int, probability: float) -> Draw:
    """Pair in round t the nodes that differ in bit ``(t - 1) mod ceil(log2 n)`` of their number.

    If n is a power of two, log2(n) rounds of pure mixing reach exact consensus, up to rounding;
    otherwise nodes without a partner keep their own factors for the round. This is the undirected
    form (one-peer hypercube) of the one-peer exponential graph of Ying et al. (arXiv 2110.13363),
    whose messages are directed: here W is symmetric, so that a failed node can be left out. The
    edges of the base graph are not used.
    """

    def draw(server_round: int) -> Edges:
        hop = 1 << ((server_round - 1) % _bits(n))
        nodes = np.arange(n)
        pairs = np.stack([nodes, nodes ^ hop], axis=1)
        return pairs[(nodes < pairs[:, 1]) & (pairs[:, 1] < n)]

    return draw


def random_matching(base: Edges, n: int, seed: int, probability: float) -> Draw:
    """Gossip in pairs: go through the base edges in random order, and keep those of free nodes."""

    def draw(server_round: int) -> Edges:
        order = _uniform(seed, "random matching", server_round, len(base))
        left, free, chosen = np.arange(len(base)), [True] * n, []
        while len(left):
            # Work in blocks, since few edges of a dense graph are still free after the first.
            size = min(4 * n, len(left))
            block = left[np.argpartition(order[left], size - 1)[:size]]
            block = block[np.argsort(order[block])]
            for edge, (i, j) in zip(block.tolist(), base[block].tolist(), strict=True):
                if free[i] and free[j]:
                    free[i] = free[j] = False
                    chosen.append(edge)
            left = left[np.array(free)[base[left]].all(axis=1)]
        return base[sorted(chosen)]

    return draw


def token_walk(base: Edges, n: int, seed: int, probability: float) -> Draw:
    """Use one edge per round: the one along which a token moves on a random walk from node 0."""
    neighbours: list[list[int]] = [[] for _ in range(n)]
    for i, j in base.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    generator = random.Random(derive_seed(seed, "token walk", 0))
    walk = [0]

    def draw(server_round: int) -> Edges:
        while len(walk) <= server_round:
            walk.append(generator.choice(neighbours[walk[-1]] or [walk[-1]]))
        here, there = sorted(walk[server_round - 1 : server_round + 1])
        return np.array([(here, there)] if here < there else [], dtype=np.int64).reshape(-1, 2)

    return draw


TIME_VARYING: dict[str, TimeVarying] = {
    "static": static,
    "edge-activation": edge_activation,
    "one-peer-exponential": one_peer_exponential,
    "random-matching": random_matching,
    "token-walk": token_walk,
}


# Families that reach consensus in finite time. They ignore the base graph, define the weights of
# their edges themselves, and return a list of the rounds of a period.
FINITE_TIME: dict[str, Callable[[int, int], list[Round]]] = {"base": base_graphs}

DYNAMIC = (*TIME_VARYING, *FINITE_TIME)


def period_of(name: str, n: int) -> int | None:
    """Return the number of rounds after which the graphs of a family repeat, or None."""
    # At least 2 for one-peer-exponential, since a period of 1 stands for the base graph itself.
    return {"static": 1, "one-peer-exponential": max(_bits(n), 2)}.get(name)


def check_dynamic(name: str) -> None:
    """Reject a name that is not in ``DYNAMIC``.

    Raises
    ------
    ValueError
        If there is no such family.
    """
    if name not in DYNAMIC:
        raise ValueError(
            f"topology.dynamic must be one of {', '.join(DYNAMIC)}; got {name!r}; choose one "
            "of these, or list the graphs in topology.file"
        )


def _bits(n: int) -> int:
    return max((n - 1).bit_length(), 1)


def _uniform(seed: int, purpose: str, server_round: int, size: int) -> NDArray[np.float64]:
    # The stream of RandomState is guaranteed not to change, and equals that of random.Random.
    return np.random.RandomState([derive_seed(seed, purpose, server_round)]).random_sample(size)
