"""Nodes that lie, for studies of robust mixing."""

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


def sign_flipped(state: State, trains: str) -> State:
    """Turn a model into its opposite: the product of each layer and all dense tensors negated.

    B is negated, A stays; where A alone trains, the other way round.
    """
    flipped = "B" if "B" in trains else "A"
    return {
        name: -tensor if (factor_of(name) or flipped) == flipped else tensor
        for name, tensor in state.items()
    }
