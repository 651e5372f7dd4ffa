"""Byzantine nodes, for studies of robust mixing.

The relay simulates the attack: it changes the posts that neighbours receive, not the node's own
model. The attack therefore works with any ClientApp, and a resumed run repeats it.
"""

from __future__ import annotations

import random

from flwr.app import Array

from flwr_decaf.lora import State, factor_of
from flwr_decaf.messages.packing import pack
from flwr_decaf.messages.quantization import quantize
from flwr_decaf.seeds import derive_seed


def byzantine_among(n: int, count: int, seed: int) -> frozenset[int]:
    """Draw which of n nodes are Byzantine.

    Examples
    --------
    >>> len(byzantine_among(10, 2, seed=0))
    2
    """
    # The label is part of the seed: changing it would draw other nodes than in published results.
    return frozenset(random.Random(derive_seed(seed, "liars")).sample(range(n), min(count, n)))


def forged_post(state: State, dtype: str, seed: int) -> Array:
    """Pack what a Byzantine node sends to every node, quantized as its own post is."""
    return pack(quantize(sign_flipped(state), dtype, seed))


def sign_flipped(state: State) -> State:
    """Negate a model: B of every layer, and all dense tensors."""
    return {name: tensor if factor_of(name) == "A" else -tensor for name, tensor in state.items()}
