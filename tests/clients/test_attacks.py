from __future__ import annotations

import pytest
import torch

from flwr_decaf.clients.attacks import liars_among, sign_flipped
from tests.states import dense_products, lora_state


@pytest.mark.parametrize("trains", ["AB", "B", "A"])
def test_the_opposite_model(trains):
    state = lora_state(0)
    flipped = sign_flipped(state, trains)
    for layer, product in dense_products(state).items():
        assert torch.equal(dense_products(flipped)[layer], -product)
    assert torch.equal(flipped["model.classifier.weight"], -state["model.classifier.weight"])
    # A factor that is frozen in the round stays as it is.
    for name, x in state.items():
        if "lora_" in name and name.split("lora_")[1][0] not in trains:
            assert torch.equal(flipped[name], x)


def test_liars_are_drawn_by_the_seed():
    assert liars_among(10, 2, seed=1) == liars_among(10, 2, seed=1)
    assert {frozenset(liars_among(10, 2, seed)) for seed in range(30)} != {liars_among(10, 2, 0)}
    assert liars_among(3, 5, seed=0) == {0, 1, 2}
    assert liars_among(3, 0, seed=0) == frozenset()
