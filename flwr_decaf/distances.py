"""Measures on states: how far apart nodes are, and what a mixing rule loses.

All functions work on factors. With ``P = left @ right``, ``||P||_F^2`` is the sum of the entrywise
product of the two Gram matrices ``left.T @ left`` and ``right @ right.T``, whose size is the rank.
A matrix of shape (d_out, d_in) is formed only if there are so many nodes that the sum of their
ranks makes that cheaper. Sums are accumulated in fp64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from flwr_decaf.lora import Pair, State, pairs_present

_PIECE = 1 << 20  # entries


def distances_to_mean(states: Sequence[State]) -> list[float]:
    """Compute each node's distance to the mean of all nodes.

        d_i = || x_i - mean_j x_j ||_F

    where x_i stacks the products ``B @ A`` of all layers and all dense tensors. Two nodes whose
    factors differ only by a change of basis have the same model, and thus distance 0.

    Parameters
    ----------
    states : sequence of State
        One complete state (A and B) per node.

    Returns
    -------
    list of float
        One distance per node. The consensus distance is their root mean square. Distances below
        about 1e-8 of the norm are lost to rounding.
    """
    return _distances(states, _squares_to_mean, lambda rows: rows.mean(dim=0))


def _squares_to_mean(lefts: list[Tensor], rights: list[Tensor]) -> Tensor:
    """Compute || P_i - M ||^2 for n nodes, where M is the mean of all P = left @ right.

    It equals || P_i ||^2 - 2 <P_i, M> + || M ||^2, where || M ||^2 is the mean of all <P_i, M>.
    """
    ranks = sum(x.shape[1] for x in lefts)
    d_out, d_in = lefts[0].shape[0], rights[0][0].numel()
    # Whichever is cheaper: all pairs of nodes by their Gram matrices, or M itself.
    if ranks * (d_out + d_in) < 2 * d_out * d_in:
        inner = _products_gram(lefts, rights)
        own, with_mean = inner.diagonal(), inner.mean(dim=1)
    else:
        left, right = torch.stack(_matrices(lefts)), torch.stack(_matrices(rights))
        own = _inner(left, right, left, right)
        mean = torch.tensordot(left, right, dims=([0, 2], [0, 1])) / len(left)
        with_mean = ((mean @ right.mT) * left).sum(dim=(1, 2))
    return own - 2 * with_mean + with_mean.mean()


def distances_to_first(states: Sequence[State]) -> list[float]:
    """Compute each state's distance to the first, ``|| x_i - x_0 ||_F``.

    See ``distances_to_mean`` for x.
    """
    return _distances(states, _squares_to_first, lambda rows: rows[0])


def _distances(
    states: Sequence[State],
    squares: Callable[[list[Tensor], list[Tensor]], Tensor],
    centre: Callable[[Tensor], Tensor],
) -> list[float]:
    total = torch.zeros(len(states), dtype=torch.float64)
    adapted = pairs_present(states[0])
    for pair in adapted:
        total += squares(*_factors(pair, states))
    for name in _dense(states[0], adapted):
        for rows in _pieces([s[name] for s in states]):
            total += (rows - centre(rows)).square().sum(dim=1)
    return [math.sqrt(max(value, 0.0)) for value in total.tolist()]


def _factors(pair: Pair, states: Sequence[State]) -> tuple[list[Tensor], list[Tensor]]:
    """Return B and A of all states, padded with zeros to the largest rank.

    This does not change their products.
    """
    lefts, rights = ([s[name].flatten(1) for s in states] for name in (pair.b, pair.a))
    most, pad = max(map(len, rights)), torch.nn.functional.pad
    if most == min(map(len, rights)):  # padding copies, even if nothing is added
        return lefts, rights
    return (
        [pad(x, (0, most - x.shape[1])) for x in lefts],
        [pad(x, (0, 0, 0, most - len(x))) for x in rights],
    )


def _squares_to_first(lefts: list[Tensor], rights: list[Tensor]) -> Tensor:
    """Compute || P_i - P_0 ||^2 = || P_i ||^2 - 2 <P_i, P_0> + || P_0 ||^2."""
    left, right = torch.stack(_matrices(lefts)), torch.stack(_matrices(rights))
    own, with_first = _inner(left, right, left, right), _inner(left, right, left[0], right[0])
    return own - 2 * with_first + own[0]


def norms(states: Sequence[State]) -> list[float]:
    """Compute the Frobenius norm of each state: of all products ``B @ A`` and dense tensors."""
    return [math.sqrt(max(_square(state), 0.0)) for state in states]


def _square(state: State) -> float:
    total, adapted = 0.0, pairs_present(state)
    for pair in adapted:
        total += float(_products_gram([state[pair.b].flatten(1)], [state[pair.a].flatten(1)]))
    for name in _dense(state, adapted):
        total += sum(float(piece.square().sum()) for piece in _pieces([state[name]]))
    return total


def interference(states: Sequence[State], weights: Sequence[float], mixed: State) -> float:
    """Compute the error that mixing makes in the products.

        || sum_j w_j B_j A_j - B~ A~ ||_F

    over all layers. For DLoRA, these are the cross terms, and for DeCAF, the truncation error. For
    DLoRA-FA and for states without LoRA pairs, it is zero.

    Parameters
    ----------
    states : sequence of State
        The states that were mixed.
    weights : sequence of float
        Their mixing weights w.
    mixed : State
        The result of the rule: A~ and B~.

    Returns
    -------
    float
        The Frobenius norm of the error.
    """
    total, terms = 0.0, torch.tensor([*weights, -1.0], dtype=torch.float64)
    for pair in pairs_present(mixed):
        lefts, rights = _factors(pair, [*states, mixed])
        total += max(float(terms @ _products_gram(lefts, rights) @ terms), 0.0)
    return math.sqrt(total)


def _inner(left: Tensor, right: Tensor, other_left: Tensor, other_right: Tensor) -> Tensor:
    """Compute <left @ right, other_left @ other_right> for a batch, by Gram matrices."""
    return ((left.mT @ other_left) * (right @ other_right.mT)).sum(dim=(-2, -1))


def _products_gram(lefts: list[Tensor], rights: list[Tensor]) -> Tensor:
    """Compute the n x n matrix of <left_i right_i, left_j right_j>."""
    n, rank = len(lefts), lefts[0].shape[1]
    gram = _gram(lefts) * _gram([x.T for x in rights])
    return gram.reshape(n, rank, n, rank).sum(dim=(1, 3))


def _gram(tensors: list[Tensor]) -> Tensor:
    """Compute X.T @ X in fp64, where X has the columns of all tensors, without a copy of X."""
    columns = sum(x.shape[1] for x in tensors)
    gram = torch.zeros(columns, columns, dtype=torch.float64)
    rows = max(1, _PIECE // 4 // columns)  # so that a piece stays in the cache
    for begin in range(0, len(tensors[0]), rows):
        piece = torch.cat([x[begin : begin + rows] for x in tensors], dim=1).double()
        gram.addmm_(piece.T, piece)
    return gram


def _pieces(tensors: list[Tensor]) -> Iterator[Tensor]:
    """Iterate over n tensors piece by piece, as n rows, to save memory in fp64."""
    flat = [x.reshape(-1) for x in tensors]
    for begin in range(0, len(flat[0]), _PIECE):
        yield torch.stack([x[begin : begin + _PIECE].double() for x in flat])


def _dense(state: State, adapted: Sequence[Pair]) -> list[str]:
    """List the tensors outside pairs: heads, whole models, factors exchanged without a partner."""
    paired = {name for pair in adapted for name in pair}
    return [n for n, x in state.items() if n not in paired and x.dtype.is_floating_point]


def _matrices(tensors: list[Tensor]) -> list[Tensor]:
    return [_matrix(x) for x in tensors]


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.flatten(1).double()
