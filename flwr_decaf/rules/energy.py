"""The fewest components of each product that hold a share of its energy.

    B A = U S V^T,   k = min {k : s_1^2 + ... + s_k^2 >= energy (s_1^2 + ... + s_r^2)}
    B' = U_k S_k^(1/2),   A' = S_k^(1/2) V_k^T

The energy of a matrix is its squared Frobenius norm, the sum of its squared singular values. By
Eckart and Young, no factors of a lower rank than k hold this share, and the error is

    ||B A - B' A'||_F <= sqrt(1 - energy) ||B A||_F.

The rank k differs from layer to layer, and from round to round.
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


def mean_rank(state: State) -> float:
    """Return the mean rank of the LoRA pairs of a state, over its layers; 0 if it has none."""
    ranks = [len(state[pair.a]) for pair in pairs(state)]
    return fmean(ranks) if ranks else 0.0


def _truncated(state: State, layers: list[Pair], energy: float) -> State:
    """Return the new factors of layers of one shape, without those that keep all components."""
    a, b = (
        torch.stack([state[name].flatten(1) for name in names])
        for names in zip(*layers, strict=True)
    )
    precision = compute_dtype(a.dtype)
    a, b = a.to(precision), b.to(precision)
    u, s, vh = truncated_svd(b, a, rank=a.shape[1])
    new: State = {}
    for layer, (pair, rank) in enumerate(zip(layers, _ranks(s, energy), strict=True)):
        if rank < a.shape[1]:
            leading = u[layer, :, :rank], s[layer, :rank], vh[layer, :rank]
            a_new, b_new = balanced(*leading, a[layer, :rank])
            new[pair.a] = a_new.reshape(rank, *state[pair.a].shape[1:]).to(state[pair.a].dtype)
            new[pair.b] = b_new.reshape(-1, rank, *state[pair.b].shape[2:]).to(state[pair.b].dtype)
    return new


def _ranks(s: Tensor, energy: float) -> list[int]:
    """Return the lowest rank of each row of singular values that holds the share, at least 1."""
    held = s.double().square().cumsum(dim=-1)
    ranks: list[int] = ((held < energy * held[:, -1:]).sum(dim=-1) + 1).tolist()
    return ranks
