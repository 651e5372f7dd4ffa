"""Gradient tracking: each node follows the mean change of all models, not only that of its own.

    c_i     = y_i - Delta_i     correction, from the last round; 0 in the first
    Delta_i = x_i+ - x_i        change in this round's training
    y_i     = Delta_i + c_i     the node's estimate of the mean change
    p_i     = x_i + y_i         which is x_i+ + c_i

x_i is the model before training and x_i+ the trained one. Nodes post p and y and mix both: x_i
becomes ``sum_j w_ij p_j``, and y_i ``sum_j w_ij y_j``. As W is doubly stochastic, ``sum_i c_i = 0``
and ``sum_i y_i = sum_i Delta_i`` after every exchange. Training comes to rest where all models are
the same and their changes sum to 0; without tracking, each node is drawn towards the optimum of its
own data, and the nodes do not agree.

The method is that of Di Lorenzo and Scutari (NEXT, arXiv 1602.00591) and of Nedic, Olshevsky and
Shi (DIGing, arXiv 1607.03218); with local steps, that of Liu et al. (K-GT, arXiv 2301.01313) and
Nguyen et al. (LU-GT, arXiv 2210.04757). These papers track gradients and, with local steps, add the
correction to the gradient of every step. Here, it is added once, to the change of a round, which
may be that of any optimizer.

A node's state is its model, y and Delta in one dict: y and Delta of a tensor have its name after a
prefix. A state without these is that of any other method, and passes through unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from flwr_decaf.lora import State, compute_dtype

_TRACKED, _CHANGE = "decaf.tracked.", "decaf.change."  # prefixes of y and of Delta
# Batch-norm statistics do not follow a gradient, and a corrected variance could be negative.
_STATISTICS = ("running_mean", "running_var")


def with_tracking(model: Mapping[str, Tensor]) -> State:
    """Return the state from which a node starts: its model, with y = Delta = 0.

    Integer tensors and batch-norm statistics are not tracked.

    Examples
    --------
    >>> list(with_tracking({"x": torch.ones(2), "steps": torch.tensor(0)}))
    ['x', 'steps', 'decaf.tracked.x', 'decaf.change.x']
    """
    tracked = {name: x for name, x in model.items() if _is_tracked(name, x)}
    zeros = {
        prefix + name: torch.zeros_like(x)
        for prefix in (_TRACKED, _CHANGE)
        for name, x in tracked.items()
    }
    return {**model, **zeros}


def track(own: State, trained: State) -> State:
    """Return a node's state after training: p, y and Delta, see above.

    Parameters
    ----------
    own : State
        The node's state before training: x, y (both mixed) and Delta of its last training.
    trained : State
        The trained model x+; has the names, shapes and dtypes of x.

    Returns
    -------
    State
        Has the names and order of ``own``; computed in at least fp32. Without y and Delta, it is
        ``trained``.

    Examples
    --------
    >>> one = with_tracking({"x": torch.zeros(1)})
    >>> first = track(one, {"x": torch.ones(1)})
    >>> mixed = first | {"decaf.tracked.x": torch.tensor([3.0])}  # the neighbours moved by more
    >>> track(mixed, {"x": torch.tensor([1.5])})  # Delta = 0.5 and c = 3 - 1
    {'x': tensor([3.5000]), 'decaf.tracked.x': tensor([2.5000]), 'decaf.change.x': tensor([0.5000])}
    """
    posted, tracked, changes = dict(trained), {}, {}
    for name in (name for name in trained if _TRACKED + name in own):
        x, y, last, after = (
            tensor.to(compute_dtype(tensor.dtype))
            for tensor in (own[name], own[_TRACKED + name], own[_CHANGE + name], trained[name])
        )
        change, correction = after - x, y - last
        posted[name] = (after + correction).to(own[name].dtype)
        tracked[_TRACKED + name] = (change + correction).to(own[name].dtype)
        changes[_CHANGE + name] = change.to(own[name].dtype)
    return posted | tracked | changes


def model_of(own: State) -> State:
    """Return the model in a node's state; every other state is returned as it is."""
    return {name: x for name, x in own.items() if not name.startswith((_TRACKED, _CHANGE))}


def split(own: State) -> tuple[State, State]:
    """Split a node's state into what nodes may exchange, and Delta, which stays at the node."""
    change = {name: x for name, x in own.items() if name.startswith(_CHANGE)}
    return {name: x for name, x in own.items() if name not in change}, change


def _is_tracked(name: str, x: Tensor) -> bool:
    return x.dtype.is_floating_point and not name.endswith(_STATISTICS)
