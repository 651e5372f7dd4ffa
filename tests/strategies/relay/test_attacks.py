from __future__ import annotations

import torch

from flwr_decaf.strategies.relay.attacks import byzantine_among, sign_flipped
from tests.states import dense_products, lora_state


def test_the_opposite_model():
    state = lora_state(0)
    flipped = sign_flipped(state)
    for layer, product in dense_products(state).items():
        assert torch.equal(dense_products(flipped)[layer], -product)
    assert torch.equal(flipped["model.classifier.weight"], -state["model.classifier.weight"])


def test_byzantine_nodes_are_drawn_by_the_seed():
    assert byzantine_among(10, 2, seed=1) == byzantine_among(10, 2, seed=1)
    assert len({byzantine_among(10, 2, seed) for seed in range(30)}) > 5
    assert byzantine_among(3, 5, seed=0) == {0, 1, 2}
    assert byzantine_among(3, 0, seed=0) == frozenset()
