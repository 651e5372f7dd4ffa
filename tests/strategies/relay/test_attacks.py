from __future__ import annotations

import torch

from flwr_decaf.strategies.relay.attacks import liars_among, sign_flipped
from tests.states import dense_products, lora_state


def test_the_opposite_model():
    state = lora_state(0)
    flipped = sign_flipped(state)
    for layer, product in dense_products(state).items():
        assert torch.equal(dense_products(flipped)[layer], -product)
    assert torch.equal(flipped["model.classifier.weight"], -state["model.classifier.weight"])


def test_liars_are_drawn_by_the_seed():
    assert liars_among(10, 2, seed=1) == liars_among(10, 2, seed=1)
    assert len({liars_among(10, 2, seed) for seed in range(30)}) > 5
    assert liars_among(3, 5, seed=0) == {0, 1, 2}
    assert liars_among(3, 0, seed=0) == frozenset()
