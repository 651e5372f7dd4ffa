"""Posts that cannot be used: found by the relay, and again by the node that is to mix them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median_low

import torch
from flwr.app import Array

from flwr_decaf.distances import norms
from flwr_decaf.lora import State
from flwr_decaf.messages import unpack
from flwr_decaf.rules.contract import check_alike

_WILD = 100.0  # times the typical norm


def read_posts(posts: Mapping[int, Array], like: State) -> tuple[dict[int, State], dict[int, str]]:
    """Unpack posts, and set aside those that no rule could mix.

    Parameters
    ----------
    posts : mapping of int to Array
        Packed states, by sender.
    like : State
        What a post must match in names, shapes and dtypes.

    Returns
    -------
    states : dict of int to State
        Posts that match and are finite.
    causes : dict of int to str
        What is wrong with the others.
    """
    states: dict[int, State] = {}
    causes: dict[int, str] = {}
    for sender, post in posts.items():
        try:
            state = unpack(post)
            check_alike(like, state, who="a post")
            _check_finite(state)
        except ValueError as error:
            causes[sender] = str(error)
        else:
            states[sender] = state
    return states, causes


def wild(own: State, states: Sequence[State]) -> list[int]:
    """Find states whose norm is beyond a hundred times the typical one.

    The norm is that of all products ``B @ A`` and dense tensors together, typical the (lower)
    median over the states and the node's own. While products are still zero nothing is wild.

    Returns
    -------
    list of int
        Places in ``states``.
    """
    sizes = norms([own, *states])
    typical = median_low(sizes)
    return [i for i, size in enumerate(sizes[1:]) if typical > 0 and size > _WILD * typical]


def _check_finite(state: State) -> None:
    for name, tensor in state.items():
        # NaN and infinity outlast a sum, which is four times as fast; one may be of its own making.
        if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            raise ValueError(f"a post must be finite; {name} holds NaN or infinity")
