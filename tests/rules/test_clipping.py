from __future__ import annotations

import math

import pytest
import torch

from flwr_decaf.rules import RULES
from flwr_decaf.rules.clipping import clipped_weights, clipping
from tests.states import dense_products, lora_state


def line(*places):
    return [{"x": torch.tensor([float(place), 0.0])} for place in places]


def test_a_byzantine_neighbour_moves_a_node_by_no_more_than_its_weight_times_tau():
    # d = 1, 2, 1000 with weights of 1/4; tau^2 = (1/4 * 1 + 1/4 * 4) / (1/4) = 5
    mixed = clipping(RULES["average"], 1)(line(0, 1, 2, 1000), [0.25] * 4)["x"]
    assert mixed[0].item() == pytest.approx((1 + 2 + math.sqrt(5)) / 4)


def test_without_byzantine_neighbours_the_rule_is_unchanged():
    states, weights = [lora_state(seed) for seed in range(3)], [0.5, 0.25, 0.25]
    for rule in (RULES["average"], RULES["factorize"]):
        plain, clipped = rule(states, weights), clipping(rule, 0)(states, weights)
        assert all(torch.equal(plain[name], clipped[name]) for name in plain)


def test_a_node_keeps_its_own_state_if_all_its_neighbours_may_be_byzantine():
    assert clipped_weights(line(0, 1, 2), [0.5, 0.25, 0.25], byzantine=2) == [1.0, 0.0, 0.0]
    assert clipped_weights(line(0), [1.0], byzantine=1) == [1.0]


def test_identical_states_are_not_clipped():
    assert clipped_weights(line(3, 3, 3), [0.5, 0.3, 0.2], byzantine=1) == pytest.approx(
        [0.5, 0.3, 0.2]
    )


def test_on_lora_the_product_is_clipped_whatever_the_basis():
    own, outlier = lora_state(0), lora_state(1)
    outlier = {name: 100 * x if "lora_B" in name else x for name, x in outlier.items()}
    turned = dict(outlier)
    for name, x in outlier.items():  # B R^-1, R A with R = 1000: the same model
        turned[name] = x / 1000 if "lora_B" in name else x * 1000 if "lora_A" in name else x
    states, weights = [own, lora_state(2), outlier], [0.4, 0.3, 0.3]
    kept = clipped_weights(states, weights, byzantine=1)
    assert clipped_weights([*states[:2], turned], weights, byzantine=1) == pytest.approx(kept)
    # tau = the honest neighbour's distance: the outlier's weight is w tau / ||P_out - P_own||
    parts = [
        torch.cat(
            [
                *(p.flatten() for p in dense_products(s).values()),
                s["model.classifier.weight"].flatten(),
            ]
        )
        for s in states
    ]
    near, far = (float((part - parts[0]).norm()) for part in parts[1:])
    assert kept == pytest.approx([0.7 - 0.3 * near / far, 0.3, 0.3 * near / far])


@pytest.mark.parametrize("name", ["average", "factorize"])
def test_a_byzantine_neighbour_cannot_hide_in_another_basis(name):
    own = lora_state(0)
    # The node's own product, in factors that would ruin an average of the factors.
    hidden = {
        k: x * 1e4 if "lora_A" in k else x / 1e4 if "lora_B" in k else x for k, x in own.items()
    }
    states, weights = [own, lora_state(1), hidden], [0.4, 0.3, 0.3]
    mixed = dense_products(clipping(RULES[name], 1)(states, weights))
    plain = dense_products(RULES["factorize"](states, clipped_weights(states, weights, 1)))
    for layer, product in mixed.items():
        torch.testing.assert_close(product, plain[layer])
        assert product.norm() < 2 * dense_products(own)[layer].norm()
