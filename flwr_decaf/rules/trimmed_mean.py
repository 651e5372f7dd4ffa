"""Trimmed mean against nodes that lie (Yin et al., arXiv 1803.01498), over a neighbourhood.

For every coordinate on its own the ``liars`` largest and smallest values are left out, and the mean
of the others is taken: on LoRA the coordinates of the products ``B @ A``, which are then factorized
at rank r as DeCAF does. All states count alike: the mixing matrix says who is a neighbour, no more.

The products are multiplied out here, d_out x d_in each, and their SVD is the dense one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flwr_decaf.lora import State, compute_dtype, pairs_present
from flwr_decaf.rules.contract import Rule, check_arguments
from flwr_decaf.rules.factorize import balanced
from flwr_decaf.rules.truncated_svd import truncated_svd


def trimming(rule: Rule, liars: int) -> Rule:
    """Replace a rule by the trimmed mean.

    Parameters
    ----------
    rule : Rule
        What an honest neighbourhood would mix by; with ``liars = 0`` it still does.
    liars : int
        Nodes of a neighbourhood that may lie. A neighbourhood of 2 liars or fewer has no value
        left to trust: the node keeps its own.
    """

    def trimmed(states: Sequence[State], weights: Sequence[float]) -> State:
        check_arguments(states, weights)
        if liars == 0:
            return rule(states, weights)
        if len(states) <= 2 * liars:
            return {name: tensor.clone() for name, tensor in states[0].items()}
        return _trimmed_mean(states, liars)

    return trimmed


def _trimmed_mean(states: Sequence[State], liars: int) -> State:
    own = states[0]
    mixed: State = {}
    for a, b in pairs_present(own):
        exact = compute_dtype(own[a].dtype)
        products = [s[b].flatten(1).to(exact) @ s[a].flatten(1).to(exact) for s in states]
        mean = _trim(products, liars)
        eye = torch.eye(mean.shape[1], dtype=exact, device=mean.device)
        rank = own[a].shape[0]
        svd = truncated_svd(mean.unsqueeze(0), eye.unsqueeze(0), rank)
        factors = balanced(*svd, own[a].flatten(1).to(exact).unsqueeze(0))
        for name, factor in zip((a, b), factors, strict=True):
            mixed[name] = factor.reshape(own[name].shape).to(own[name].dtype)
    dense = (name for name in own if name not in mixed)
    mixed |= {name: _trim([s[name] for s in states], liars) for name in dense}
    return {name: mixed[name] for name in own}


def _trim(tensors: Sequence[Tensor], liars: int) -> Tensor:
    own = tensors[0]
    if not own.dtype.is_floating_point:
        return own.clone()
    ordered = torch.stack([x.to(compute_dtype(own.dtype)) for x in tensors]).sort(dim=0).values
    return ordered[liars : len(tensors) - liars].mean(dim=0).to(own.dtype)
