"""Trimmed mean of a neighbourhood against Byzantine nodes (Yin et al., arXiv 1803.01498).

For each coordinate, the ``byzantine`` largest and smallest values are discarded and the others are
averaged. With LoRA, these are the coordinates of the products ``B @ A``; their trimmed mean is
factorized at rank r as in DeCAF. All states have equal weight: the mixing matrix only determines
the neighbourhoods.

Unlike the other rules, this one forms the products, of shape (d_out, d_in), and uses a dense SVD.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flwr_decaf.lora import State, check_products, compute_dtype, pairs_present
from flwr_decaf.rules.contract import Rule, check_arguments
from flwr_decaf.rules.factorize import balanced
from flwr_decaf.rules.truncated_svd import truncated_svd


def trimming(rule: Rule, byzantine: int) -> Rule:
    """Replace a rule by the trimmed mean.

    Parameters
    ----------
    rule : Rule
        The rule for ``byzantine = 0``.
    byzantine : int
        Number of neighbours that may be Byzantine. With ``2 * byzantine`` states or fewer in the
        neighbourhood, no values are left after trimming, and the node keeps its own state.

    Returns
    -------
    Rule
        The robust rule.
    """

    def trimmed(states: Sequence[State], weights: Sequence[float]) -> State:
        if byzantine == 0:
            return rule(states, weights)
        check_arguments(states, weights, any_rank=True, signed=False)
        if len(states) <= 2 * byzantine:
            return {name: tensor.clone() for name, tensor in states[0].items()}
        return _trimmed_mean(states, byzantine)

    return trimmed


def _trimmed_mean(states: Sequence[State], byzantine: int) -> State:
    own = states[0]
    mixed: State = {}
    if adapted := pairs_present(own):
        check_products(own)
    for a, b in adapted:
        dtype = compute_dtype(own[a].dtype)
        products = [s[b].flatten(1).to(dtype) @ s[a].flatten(1).to(dtype) for s in states]
        mean = _trim(products, byzantine)
        eye = torch.eye(mean.shape[1], dtype=dtype, device=mean.device)
        rank = own[a].shape[0]
        svd = truncated_svd(mean.unsqueeze(0), eye.unsqueeze(0), rank)
        factors = balanced(*svd, own[a].flatten(1).to(dtype).unsqueeze(0))
        for name, factor in zip((a, b), factors, strict=True):
            mixed[name] = factor.reshape(own[name].shape).to(own[name].dtype)
    dense = (name for name in own if name not in mixed)
    mixed |= {name: _trim([s[name] for s in states], byzantine) for name in dense}
    return {name: mixed[name] for name in own}


def _trim(tensors: Sequence[Tensor], byzantine: int) -> Tensor:
    own = tensors[0]
    if not own.dtype.is_floating_point:
        return own.clone()
    ordered = torch.stack([x.to(compute_dtype(own.dtype)) for x in tensors]).sort(dim=0).values
    return ordered[byzantine : len(tensors) - byzantine].mean(dim=0).to(own.dtype)
