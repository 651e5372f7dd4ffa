"""Inspection of posts: unusable posts are refused at both ends of an edge.

W thus stays doubly stochastic. The relay inspects every post, and drops all edges of a node whose
post is malformed or not finite; the node receives its last good post again. Whether a norm is an
outlier is decided by the two nodes of an edge, from the same two posts, since each node uses its
own post as its neighbours see it. A post that was damaged on its way from the relay is refused only
by its receiver.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from flwr.app import Array

from flwr_decaf.distances import norms
from flwr_decaf.lora import State
from flwr_decaf.messages.packing import unpack
from flwr_decaf.messages.quantization import dequantize
from flwr_decaf.rules.contract import Ranks, check_alike

_RATIO = 100.0  # of two norms


def read_posts(
    posts: Mapping[int, Array], like: State, dtype: str = "fp32", ranks: Ranks = "equal"
) -> tuple[dict[int, State], dict[int, str]]:
    """Unpack posts, and separate those that no rule can mix.

    Parameters
    ----------
    posts : mapping of int to Array
        Packed states, by sender.
    like : State
        State whose names, shapes and dtypes a post must match.
    dtype : str
        How posts are quantized; by default "fp32": not at all.
    ranks : str
        Ranks that LoRA pairs may have, see ``rules.contract.check_alike``; by default "equal".

    Returns
    -------
    states : dict of int to State
        Posts that match and are finite, dequantized.
    causes : dict of int to str
        Sender of each unusable post -> what is wrong with it.
    """
    states: dict[int, State] = {}
    causes: dict[int, str] = {}
    for sender, post in posts.items():
        try:
            state = dequantize(unpack(post), dtype, like)
            check_alike(like, state, "a post", ranks)
            _check_finite(state)
        except ValueError as error:
            causes[sender] = str(error)
        else:
            states[sender] = state
    return states, causes


def outliers(own: State, states: Mapping[int, State]) -> dict[int, str]:
    """Find states whose norm differs from the node's own by more than a factor of 100.

    The norm is that of all products ``B @ A`` and dense tensors together. Two nodes that compare
    their states reach the same decision. If a norm is zero, as before the first step, nothing is an
    outlier.

    Parameters
    ----------
    own : State
        The node's own state.
    states : mapping of int to State
        States to compare with it, by sender.

    Returns
    -------
    dict of int to str
        Sender of each outlier -> both norms.
    """
    if not states:
        return {}
    mine, *others = norms([own, *states.values()])
    return {
        sender: f"its norm is {size:.3g} and the receiver's {mine:.3g}; beyond a factor of "
        f"{_RATIO:.0f}, neither node mixes the other's model"
        for sender, size in zip(states, others, strict=True)
        if min(mine, size) > 0 and max(mine, size) > _RATIO * min(mine, size)
    }


def _check_finite(state: State) -> None:
    for name, tensor in state.items():
        # A sum is four times as fast and preserves NaN and infinity, but may also overflow.
        if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            raise ValueError(f"a post must be finite; {name} contains NaN or infinity")
