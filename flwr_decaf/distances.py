"""What is measured on states: how far nodes are apart, and what a mixing rule lost.

All of it works on factors. With ``P = left @ right``, ``||P||_F^2`` is the sum over the entrywise
product of the two Gram matrices ``left.T @ left`` and ``right @ right.T``, which are as small as
the rank; the d_out x d_in matrices are never formed. Sums are taken in fp64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flwr_decaf.lora import State, pairs_present

_PIECE = 1 << 20  # entries


def distances_to_mean(states: Sequence[State]) -> list[float]:
    """Measure each node's distance to the mean of all.

        d_i = || x_i - mean_j x_j ||_F

    where x_i stacks the products ``B @ A`` of all layers and all dense tensors: two nodes whose
    factors differ by a change of basis hold the same model and are at distance 0.

    Parameters
    ----------
    states : sequence of State
        One state a node, whole (A and B).

    Returns
    -------
    list of float
        One distance a node. The consensus distance is their root mean square. Differences
        below about 1e-8 of the norm are lost to rounding.
    """
    inner = _inner_products(states)
    squares = inner.diagonal() - 2 * inner.mean(dim=1) + inner.mean()
    return [math.sqrt(max(value, 0.0)) for value in squares.tolist()]


def distances_to_first(states: Sequence[State]) -> list[float]:
    """Measure each state's distance to the first, ``|| x_i - x_0 ||_F``, as above."""
    inner = _inner_products(states)
    squares = inner.diagonal() - 2 * inner[:, 0] + inner[0, 0]
    return [math.sqrt(max(value, 0.0)) for value in squares.tolist()]


def norms(states: Sequence[State]) -> list[float]:
    """Measure the Frobenius norm of each state: of all products ``B @ A`` and dense tensors."""
    return [math.sqrt(max(_square(state), 0.0)) for state in states]


def _square(state: State) -> float:
    # Each state by itself: what is between two states is not asked for.
    total, adapted = 0.0, pairs_present(state)
    for pair in adapted:
        left, right = _matrix(state[pair.b]), _matrix(state[pair.a])
        total += float(torch.vdot((left.T @ left).flatten(), (right @ right.T).flatten()))
    paired = {name for pair in adapted for name in pair}
    dense = (x for name, x in state.items() if name not in paired and x.dtype.is_floating_point)
    return total + sum(float(_dense_gram([x])) for x in dense)


def interference(states: Sequence[State], weights: Sequence[float], mixed: State) -> float:
    """Measure what mixing changed in the product that it should have kept.

        || sum_j w_j B_j A_j - B~ A~ ||_F

    over all layers. For DLoRA these are the cross terms, for DeCAF what the truncation cut off,
    for DLoRA-FA zero. States without LoRA pairs have none.
    """
    total = 0.0
    for pair in pairs_present(mixed):
        left = [w * _matrix(s[pair.b]) for s, w in zip(states, weights, strict=True)]
        right = [_matrix(s[pair.a]) for s in states]
        stacked_left = torch.cat([*left, -_matrix(mixed[pair.b])], dim=1)
        stacked_right = torch.cat([*right, _matrix(mixed[pair.a])], dim=0)
        gram = (stacked_left.T @ stacked_left) * (stacked_right @ stacked_right.T)
        total += max(float(gram.sum()), 0.0)
    return math.sqrt(total)


def _inner_products(states: Sequence[State]) -> Tensor:
    """Form the n x n matrix of <x_i, x_j>, over the products of all layers and all dense tensors.

    A factor without its partner, where only one of the two travels, counts as dense.
    """
    n, adapted = len(states), pairs_present(states[0])
    total = torch.zeros(n, n, dtype=torch.float64)
    for pair in adapted:
        total += _products_gram([s[pair.b] for s in states], [s[pair.a] for s in states])
    paired = {name for pair in adapted for name in pair}
    for name, tensor in states[0].items():
        if name not in paired and tensor.dtype.is_floating_point:
            total += _dense_gram([s[name] for s in states])
    return total


def _products_gram(lefts: list[Tensor], rights: list[Tensor]) -> Tensor:
    """Form the n x n matrix of <left_i right_i, left_j right_j>."""
    left = torch.cat([_matrix(x) for x in lefts], dim=1)
    right = torch.cat([_matrix(x) for x in rights], dim=0)
    n, rank = len(lefts), len(right) // len(lefts)
    gram = (left.T @ left) * (right @ right.T)
    return gram.reshape(n, rank, n, rank).sum(dim=(1, 3))


def _dense_gram(tensors: list[Tensor]) -> Tensor:
    """Form the n x n matrix of <x_i, x_j>, a piece at a time: in fp64 all at once may not fit."""
    flat = [x.reshape(-1) for x in tensors]
    total = torch.zeros(len(flat), len(flat), dtype=torch.float64)
    for begin in range(0, len(flat[0]), _PIECE):
        piece = torch.stack([x[begin : begin + _PIECE].double() for x in flat])
        total += piece @ piece.T
    return total


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.flatten(1).double()
