"""Base-(k+1) graphs: sequences of sparse graphs that reach exact consensus.

Takezawa et al., "Beyond Exponential Graph: Communication-Efficient Topologies for Decentralized
Learning via Finite-time Convergence" (arXiv 2305.11420). For every number of nodes n and every
degree k, the mixing matrices of one period multiply to ``1 1^T / n``, and no node has more than k
neighbours in a round. All matrices are symmetric, doubly stochastic and non-negative.

A round is a mapping from edges (i, j), i < j, to weights; a node's own weight is 1 minus the
weights of its edges.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise

Round = dict[tuple[int, int], float]
Nodes = Sequence[int]


def base_graphs(n: int, peers: int) -> list[Round]:
    """Build one period of the Base-(k+1) graph or of the Simple one, whichever is shorter.

    Both reach exact consensus with at most k neighbours per node in a round. The Base-(k+1) graph
    splits n nodes into blocks whose number has no prime factor above k + 1: all blocks use the
    Simple graph in parallel, and then the nodes at the same position of each block use the
    hyper-hypercube.

    Parameters
    ----------
    n : int
        Number of nodes, at least 1.
    peers : int
        k, the largest number of neighbours of a node in a round, at least 1.

    Returns
    -------
    list of dict
        The rounds of a period, at most ``2 log_(k+1)(n) + 2``; empty for a single node.

    Examples
    --------
    >>> base_graphs(4, peers=1)
    [{(0, 1): 0.5, (2, 3): 0.5}, {(0, 2): 0.5, (1, 3): 0.5}]
    >>> [len(base_graphs(n, peers=2)) for n in (5, 9, 10)]
    [3, 2, 4]
    """
    b = peers + 1
    blocks = math.gcd(n, math.prod(f ** _whole_log(n, f) for f in range(2, b + 1)))
    size = n // blocks
    each = [simple_base_graphs(range(i * size, (i + 1) * size), b) for i in range(blocks)]
    columns = [hyper_hypercube(range(place, n, size), b) or [] for place in range(size)]
    base = [_union(rounds) for rounds in zip(*each, strict=True)]
    base += [_union(rounds) for rounds in zip(*columns, strict=True)]
    return min(simple_base_graphs(range(n), b), base, key=len)


def hyper_hypercube(nodes: Nodes, b: int) -> list[Round] | None:
    """Average nodes digit by digit: in cliques of at most b nodes that differ in a single digit.

    The number of nodes is factorized into numbers of at most b, which are the bases of the digits.
    The weight of each edge is 1 / (size of its clique).

    Returns
    -------
    list of dict or None
        One round per factor; None if the number of nodes has a prime factor above b.
    """
    factors, left = [], len(nodes)
    while left > 1:
        factor = max((f for f in range(2, b + 1) if left % f == 0), default=None)
        if factor is None:
            return None
        factors.append(factor)
        left //= factor
    rounds, stride = [], 1
    for factor in sorted(factors):
        firsts = (i for i in range(len(nodes)) if (i // stride) % factor == 0)
        cliques = ([nodes[i + digit * stride] for digit in range(factor)] for i in firsts)
        rounds.append(_cliques(cliques))
        stride *= factor
    return rounds


def simple_base_graphs(nodes: Nodes, b: int) -> list[Round]:
    """Build one period of the Simple Base-(k+1) graph, b = k + 1, on any number of nodes.

    If the hyper-hypercube does not exist, the number of nodes is written in base b: the digit a_l
    of b^(p_l) corresponds to a part V_l with a_l cells of b^(p_l) nodes each. First, the nodes of
    every part are averaged. Then, one part V_j after the other is mixed with all later parts, so
    that the mean of each of its cells becomes the mean of all nodes. Finally, the nodes of every
    cell are averaged.
    """
    whole = hyper_hypercube(nodes, b)
    if whole is not None:
        return whole
    parts = _parts(nodes, b)
    inside = [hyper_hypercube([i for cell in cells for i in cell], b) or [] for cells in parts]
    first = len(inside[0])
    rounds = [_union(_at(own, t) for own in inside) for t in range(first)]
    total = first + 1 + len(hyper_hypercube(parts[0][0], b) or [])
    last = len(parts) - 1
    for t in range(first, total):
        step = t - first  # the part with this index, if any, is mixed with the later ones
        together = [_mix_with_later(parts[step], parts[step + 1 :])] if step < last else []
        # The cells of a part are averaged from the next round on; the last part is not mixed.
        for j, cells in enumerate(parts):
            begun = step - min(j, last - 1) - 1
            if begun >= 0:
                together += [_at(rounds_of, begun) for rounds_of in _cell_rounds(cells, b)]
        rounds.append(_union(together))
    return rounds


def _parts(nodes: Nodes, b: int) -> list[list[Nodes]]:
    """Split nodes into parts of equal cells, by the digits of their number in base b."""
    parts: list[list[Nodes]] = []
    start = 0
    for power in reversed(range(_whole_log(len(nodes), b) + 1)):
        size = b**power
        digit = (len(nodes) // size) % b
        if digit:
            ends = [start + i * size for i in range(digit + 1)]
            parts.append([nodes[i:j] for i, j in pairwise(ends)])
            start = ends[-1]
    return parts


def _mix_with_later(cells: Sequence[Nodes], later: Iterable[Sequence[Nodes]]) -> Round:
    """Link the x-th node of all later parts to the x-th node of each cell."""
    rest = [i for part in later for cell in part for i in cell]
    size = sum(map(len, cells))
    weight = size / (size + len(rest)) / len(cells)
    return {_edge(cell[x], node): weight for x, node in enumerate(rest) for cell in cells}


def _cell_rounds(cells: Sequence[Nodes], b: int) -> list[list[Round]]:
    """Return the rounds that average each cell, or all cells together if each is a single node."""
    groups = [[cell[0] for cell in cells]] if len(cells[0]) == 1 else cells
    return [hyper_hypercube(group, b) or [] for group in groups]


def _cliques(groups: Iterable[Nodes]) -> Round:
    return {_edge(i, j): 1 / len(group) for group in groups for i, j in combinations(group, 2)}


def _edge(i: int, j: int) -> tuple[int, int]:
    return (i, j) if i < j else (j, i)


def _at(rounds: Sequence[Round], t: int) -> Round:
    """Return round t of a periodic sequence, or no edges if it is empty."""
    return rounds[t % len(rounds)] if rounds else {}


def _union(rounds: Iterable[Round]) -> Round:
    return {edge: weight for each in rounds for edge, weight in each.items()}


def _whole_log(n: int, b: int) -> int:
    """Return the largest p with b**p <= n, in integer arithmetic to avoid rounding."""
    power = 0
    while b ** (power + 1) <= n:
        power += 1
    return power
