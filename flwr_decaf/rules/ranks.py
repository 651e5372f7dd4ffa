"""States of another rank, and averages of states whose ranks differ, by way of their products."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from flwr_decaf.lora import State, factor_of
from flwr_decaf.rules.contract import Rule
from flwr_decaf.rules.factorize import factorize

_AXES = {"A": 0, "B": 1}  # along which a factor has the rank


def at_rank(state: State, rank: int) -> State:
    """Truncate the product of each LoRA pair to a rank.

    The result has the best approximation of each product. If a product has a lower rank, as before
    the first step (B = 0), the first rows of A take the place of what is missing, as in
    ``factorize``.

    Parameters
    ----------
    state : State
        An adapter.
    rank : int
        The rank, at least 1. Layers of a lower rank keep their own.

    Returns
    -------
    State
        Has the names, order and dtypes of ``state``; the state itself if no layer exceeds the rank.

    Raises
    ------
    ValueError
        If there is no LoRA pair, or a rank exceeds the shorter side of its layer.

    Examples
    --------
    >>> import torch
    >>> state = {"q.lora_A.weight": torch.ones(4, 9), "q.lora_B.weight": torch.zeros(5, 4)}
    >>> {name: tuple(x.shape) for name, x in at_rank(state, 2).items()}
    {'q.lora_A.weight': (2, 9), 'q.lora_B.weight': (5, 2)}
    """
    cut = dict(state)
    for name, x in state.items():
        if factor := factor_of(name):
            axis = _AXES[factor]
            cut[name] = x.narrow(axis, 0, min(rank, x.shape[axis]))
    return state if have_one_rank([state, cut]) else factorize([cut, state], [0.0, 1.0])


def padded_to(like: State, state: State) -> State:
    """Give each LoRA pair the rank that it has in another state, without changing its product.

    A missing component gets a column of zeros in B and the row that A has in ``like``, so that it
    remains trainable, as in ``factorize``.

    Parameters
    ----------
    like : State
        State whose layers have at least the ranks of ``state``.
    state : State
        An adapter, or parts of one.

    Returns
    -------
    State
        Has the names, order and dtypes of ``state``; the tensors themselves where nothing is
        missing.

    Examples
    --------
    >>> import torch
    >>> like = {"q.lora_A.weight": torch.ones(3, 9), "q.lora_B.weight": torch.ones(5, 3)}
    >>> state = {"q.lora_A.weight": torch.ones(1, 9), "q.lora_B.weight": torch.ones(5, 1)}
    >>> padded_to(like, state)["q.lora_B.weight"][0]
    tensor([1., 0., 0.])
    """
    padded = dict(state)
    for name, x in state.items():
        factor = factor_of(name)
        if factor and x.shape != like[name].shape:
            axis = _AXES[factor]
            held = x.shape[axis]
            rest = like[name].narrow(axis, held, like[name].shape[axis] - held)
            rest = rest if factor == "A" else torch.zeros_like(rest)
            padded[name] = torch.cat([x, rest], dim=axis)
    return padded


def have_one_rank(states: Sequence[State]) -> bool:
    """Return whether states of the same names have the same shapes."""
    first, *others = states
    return all(x.shape == first[name].shape for state in others for name, x in state.items())


def average_at_rank_of(like: State, states: Sequence[State], rule: Rule) -> State:
    """Average states with equal weights, at the rank of another state if their ranks differ.

    Parameters
    ----------
    like : State
        State with the rank of the result, which is not averaged.
    states : sequence of State
        States to average.
    rule : Rule
        Rule of the method.
    """
    share = 1.0 / len(states)
    if have_one_rank([like, *states]):
        return rule(states, [share] * len(states))
    return rule([like, *states], [0.0, *[share] * len(states)])
