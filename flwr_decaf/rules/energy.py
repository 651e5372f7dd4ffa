"""The fewest components of each product that hold a share of its energy.

    B A = U S V^T,   k = min {k : s_1^2 + ... + s_k^2 >= energy (s_1^2 + ... + s_r^2)}
    B' = U_k S_k^(1/2),   A' = S_k^(1/2) V_k^T

The energy of a matrix is its squared Frobenius norm, the sum of its squared singular values. By
Eckart and Young, no factors of a lower rank than k hold this share, and the error is

    ||B A - B' A'||_F <= sqrt(1 - energy) ||B A||_F.

The rank k differs from layer to layer, and from round to round. What a node does not post stays in
its own model (``keep_residual``), where it grows until it is posted: error feedback, as in low-rank
compression of gradients (PowerSGD, arXiv 1905.13727).
"""

from __future__ import annotations

from statistics import fmean

import torch
from torch import Tensor

from flwr_decaf.lora import Pair, State, compute_dtype, pairs
from flwr_decaf.rules.factorize import balanced, by_shape
from flwr_decaf.rules.truncated_svd import truncated_svd


def keep_energy(state: State, energy: float) -> State:
    """Truncate the product of each LoRA pair to the lowest rank that holds a share of its energy.

    Parameters
    ----------
    state : State
        An adapter.
    energy : float
        The share, > 0 and <= 1. With 1, the state itself is returned.

    Returns
    -------
    State
        Has the names, order and dtypes of ``state``. A layer all of whose components are needed
        keeps its factors, bit for bit; a product of zero, as before the first step, has rank 1.
        Half-precision factors are computed in fp32 and cast back. Dense tensors are unchanged.

    Examples
    --------
    Singular values of 3 and 1 have 90 % and 10 % of the energy.

    >>> b = torch.diag(torch.tensor([3.0, 1.0]))
    >>> state = {"q.lora_A.weight": torch.eye(2), "q.lora_B.weight": b}
    >>> [len(keep_energy(state, share)["q.lora_A.weight"]) for share in (0.89, 0.91)]
    [1, 2]
    """
    if energy == 1.0:
        return state
    kept = dict(state)
    for layers in by_shape([state], pairs(state)):
        kept |= _truncated(state, layers, energy)
    return kept


def keep_residual(state: State, energy: float, weight: float) -> State:
    """Divide the components that ``keep_energy`` drops by a node's own weight in its mix.

    If node i mixes the result, P_i + (1 / w_ii - 1) (P_i - T(P_i)), with the truncated products
    T(P_j) of its neighbours, what it has not posted stays with it in full, and is posted later:

        w_ii T(P_i) + (P_i - T(P_i)) + sum_j w_ij T(P_j) = P_i + sum_j w_ij (T(P_j) - T(P_i)).

    Truncation thus leaves the mean product of all nodes unchanged.

    Parameters
    ----------
    state : State
        The node's own adapter, of products P_i.
    energy : float
        The share of the energy that it has posted.
    weight : float
        Its own weight w_ii, > 0.

    Returns
    -------
    State
        Has the names, order, shapes and dtypes of ``state``. Dense tensors are unchanged, and so
        are layers whose components have all been posted, bit for bit.
    """
    scaled = dict(state)
    for layers in by_shape([state], pairs(state)) if energy < 1.0 else ():
        u, s, vh, a = _decomposed(state, layers)
        ranks = _ranks(s, energy)
        is_posted = torch.arange(s.shape[1], device=s.device) < ranks.unsqueeze(-1)
        factors = zip(*balanced(u, torch.where(is_posted, s, s / weight), vh, a), strict=True)
        for pair, rank, new in zip(layers, ranks.tolist(), factors, strict=True):
            if rank < s.shape[1]:
                scaled |= _pair(state, pair, *new)
    return scaled


def mean_rank(state: State) -> float:
    """Return the mean rank of the LoRA pairs of a state, over its layers; 0 if it has none."""
    ranks = [len(state[pair.a]) for pair in pairs(state)]
    return fmean(ranks) if ranks else 0.0


def _truncated(state: State, layers: list[Pair], energy: float) -> State:
    """Return the new factors of layers of one shape, without those that keep all components."""
    u, s, vh, a = _decomposed(state, layers)
    new: State = {}
    for layer, (pair, rank) in enumerate(zip(layers, _ranks(s, energy).tolist(), strict=True)):
        if rank < s.shape[1]:
            leading = u[layer, :, :rank], s[layer, :rank], vh[layer, :rank]
            new |= _pair(state, pair, *balanced(*leading, a[layer, :rank]))
    return new


def _decomposed(state: State, layers: list[Pair]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the singular value decompositions of the products of layers, and their A."""
    a, b = (
        torch.stack([state[name].flatten(1) for name in names])
        for names in zip(*layers, strict=True)
    )
    precision = compute_dtype(a.dtype)
    a, b = a.to(precision), b.to(precision)
    return *truncated_svd(b, a, rank=a.shape[1]), a


def _ranks(s: Tensor, energy: float) -> Tensor:
    """Return the lowest rank of each row of singular values that holds the share, at least 1."""
    held = s.double().square().cumsum(dim=-1)
    return (held < energy * held[:, -1:]).sum(dim=-1) + 1


def _pair(state: State, pair: Pair, a: Tensor, b: Tensor) -> State:
    """Return factors in the form and the dtype of a pair, of any rank."""
    old_a, old_b = state[pair.a], state[pair.b]
    return {
        pair.a: a.reshape(-1, *old_a.shape[1:]).to(old_a.dtype),
        pair.b: b.reshape(len(old_b), -1, *old_b.shape[2:]).to(old_b.dtype),
    }
