"""Posts that cannot be used, found so that W stays doubly stochastic: on both sides of an edge.

The relay inspects every post, and drops all edges of a node whose post has another form or is not
finite; the node gets its last good post back. Whether a norm is an outlier is decided by the two
nodes of an edge, each from the same two posts, since what a node mixes into is what it posted.
A post that was damaged on its way from the relay is refused by its receiver alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from flwr.app import Array

from flwr_decaf.distances import norms
from flwr_decaf.lora import State
from flwr_decaf.messages.packing import unpack
from flwr_decaf.rules.contract import check_alike

_RATIO = 100.0  # of two norms


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


def outliers(own: State, states: Mapping[int, State]) -> dict[int, str]:
    """Find states whose norm is more than a hundred times the node's own, or less than a hundredth.

    The norm is that of all products ``B @ A`` and dense tensors together. Of two nodes that
    compare each other's state both come to the same decision. While a norm is zero, as before
    the first step, nothing is an outlier.

    Parameters
    ----------
    own : State
        The node's own.
    states : mapping of int to State
        By sender.

    Returns
    -------
    dict of int to str
        Sender -> both norms.
    """
    mine, *others = norms([own, *states.values()])
    return {
        sender: f"its norm is {size:.3g} and the receiver's {mine:.3g}; beyond a factor of "
        f"{_RATIO:.0f} neither node mixes the other's model"
        for sender, size in zip(states, others, strict=True)
        if min(mine, size) > 0 and max(mine, size) > _RATIO * min(mine, size)
    }


def _check_finite(state: State) -> None:
    for name, tensor in state.items():
        # NaN and infinity outlast a sum, which is four times as fast; one may be of its own making.
        if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            raise ValueError(f"a post must be finite; {name} holds NaN or infinity")
