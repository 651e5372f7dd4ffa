"""DLoRA averages each tensor separately (arXiv 2505.21382, the baseline of DeCAF).

    A~ = sum_j w_j A_j,   B~ = sum_j w_j B_j

The product then contains cross terms: ``B~ A~`` differs from ``sum_j w_j B_j A_j`` by the
interference ``sum_j w_j (B_j - B~)(A_j - A~)``. On a dense state (without LoRA) this is the mixing
step of decentralized parallel SGD.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flwr_decaf.lora import State, compute_dtype
from flwr_decaf.rules.contract import check_arguments


def average(states: Sequence[State], weights: Sequence[float]) -> State:
    """Average each tensor over the neighbourhood.

    Parameters
    ----------
    states : sequence of State
        The node's own state first; all have the same names, shapes and dtypes.
    weights : sequence of float
        The node's row of the mixing matrix, which sums to 1.

    Returns
    -------
    State
        Has the names, order, shapes and dtypes of the node's own state. Integer tensors
        (batch-norm counters) are not averaged: the node keeps its own. Variances of batch norm that
        negative weights would make negative are 0.

    Raises
    ------
    ValueError
        If the states do not match or the weights do not sum to 1.

    Examples
    --------
    >>> import torch
    >>> average([{"x": torch.zeros(2)}, {"x": torch.ones(2)}], [0.75, 0.25])
    {'x': tensor([0.2500, 0.2500])}
    """
    check_arguments(states, weights)
    mixed = {name: weighted_mean([s[name] for s in states], weights) for name in states[0]}
    for name in mixed if min(weights) < 0 else ():
        if name.endswith("running_var"):
            mixed[name].clamp_(min=0)
    return mixed


def weighted_mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Compute ``sum_j weights[j] * tensors[j]`` in at least fp32, cast to the dtype of the first.

    Integer tensors are not averaged: the result is a copy of the first.
    """
    own = tensors[0]
    if not own.dtype.is_floating_point:
        return own.clone()
    total = own.to(compute_dtype(own.dtype)) * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total.add_(tensor.to(total.dtype), alpha=weight)
    return total.to(own.dtype)
