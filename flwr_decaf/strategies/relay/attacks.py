"""Nodes that lie, for studies of robust mixing.

The relay plays the liar: it changes the posts that neighbours get, not what the node holds. So any
ClientApp can be put under attack, and a run that is resumed goes on with the same lies.
"""

from __future__ import annotations

import random

from flwr_decaf.lora import State, factor_of
from flwr_decaf.seeds import derive_seed


def liars_among(n: int, count: int, seed: int) -> frozenset[int]:
    """Draw which of n nodes lie.

    Examples
    --------
    >>> len(liars_among(10, 2, seed=0))
    2
    """
    return frozenset(random.Random(derive_seed(seed, "liars")).sample(range(n), min(count, n)))


def sign_flipped(state: State) -> State:
    """Turn a model into its opposite: B of every layer and all dense tensors are negated."""
    return {name: tensor if factor_of(name) == "A" else -tensor for name, tensor in state.items()}
