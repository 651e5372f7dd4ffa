"""States of another rank, and averages of states whose ranks differ, by way of their products."""

from __future__ import annotations

from collections.abc import Sequence

from flwr_decaf.lora import State, factor_of
from flwr_decaf.rules.contract import Rule
from flwr_decaf.rules.factorize import factorize


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
    axes = {"A": 0, "B": 1}
    cut = dict(state)
    for name, x in state.items():
        if factor := factor_of(name):
            cut[name] = x.narrow(axes[factor], 0, min(rank, x.shape[axes[factor]]))
    return state if have_one_rank([state, cut]) else factorize([cut, state], [0.0, 1.0])


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
