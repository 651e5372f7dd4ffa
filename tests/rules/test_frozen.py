from __future__ import annotations

import pytest

from flwr_decaf.rules import frozen
from tests.states import dense_products, lora_state, mean_products, share_a


def test_products_mix_exactly():  # invariant 7
    states = share_a([lora_state(seed) for seed in range(3)])
    mixed = dense_products(frozen(states, [0.2, 0.3, 0.5]))
    for layer, p in mean_products(states, [0.2, 0.3, 0.5]).items():
        assert (mixed[layer] - p).norm() < 1e-12


def test_b_may_be_exchanged_alone():
    states = [
        {key: x for key, x in lora_state(seed).items() if "lora_A" not in key} for seed in range(2)
    ]
    mixed = frozen(states, [0.5, 0.5])
    key = "model.q.lora_B.weight"
    assert (mixed[key] - (states[0][key] + states[1][key]) / 2).abs().max() < 1e-15


def test_a_neighbour_with_a_different_a_is_rejected():  # known defect 5
    with pytest.raises(ValueError, match=r"the same frozen A on all nodes; model.q.lora_A"):
        frozen([lora_state(0), lora_state(1)], [0.5, 0.5])
