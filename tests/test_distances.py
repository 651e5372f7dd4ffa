from __future__ import annotations

import math

import pytest
import torch

from flwr_decaf.distances import distances_to_first, distances_to_mean, interference, norms
from flwr_decaf.rules import average, factorize, frozen
from tests.states import dense_products, lora_state, mean_products, share_a


def as_rows(states):
    """One row a state: all its products, multiplied out, and its dense tensor."""
    return torch.stack(
        [
            torch.cat([*(p.flatten() for p in dense_products(s).values()),
                       s["model.classifier.weight"].flatten()])
            for s in states
        ]
    )  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 4, 9])  # few nodes by Gram matrices, many by the mean itself
def test_distances_against_the_dense_formula(n):
    states = [lora_state(seed) for seed in range(n)]
    rows = as_rows(states)
    for measured, expected in (
        (distances_to_mean(states), rows - rows.mean(dim=0)),
        (distances_to_first(states), rows - rows[0]),
        (norms(states), rows),
    ):
        assert measured == pytest.approx(expected.norm(dim=1).tolist(), abs=1e-6)


@pytest.mark.parametrize("ranks", [[2, 2, 2], [1, 3, 2]])
def test_long_factors_are_multiplied_piece_by_piece(ranks):
    shapes = {"long": (60_000, 3), "wide": (2, 50_000)}
    states = [lora_state(i, rank, shapes, head=False) for i, rank in enumerate(ranks)]
    rows = torch.stack(
        [torch.cat([p.flatten() for p in dense_products(s).values()]) for s in states]
    )
    expected = (rows - rows.mean(dim=0)).norm(dim=1).tolist()
    assert distances_to_mean(states) == pytest.approx(expected, rel=1e-9)
    assert norms(states) == pytest.approx(rows.norm(dim=1).tolist(), rel=1e-9)
    error = (0.3 * rows[0] + 0.7 * rows[1] - rows[2]).norm()
    assert interference(states[:2], [0.3, 0.7], states[2]) == pytest.approx(float(error), rel=1e-9)


def test_nodes_with_the_same_model_in_another_basis_have_distance_zero():
    state = lora_state(0)
    turned = dict(state)
    for layer in ("q", "v", "up"):
        turned[f"model.{layer}.lora_A.weight"] = 2 * state[f"model.{layer}.lora_A.weight"]
        turned[f"model.{layer}.lora_B.weight"] = state[f"model.{layer}.lora_B.weight"] / 2
    assert max(distances_to_mean([state, turned])) < 1e-6


def test_distances_of_dense_states_and_of_one_node():
    states = [{"x": torch.tensor([0.0, 0.0])}, {"x": torch.tensor([6.0, 8.0])}]
    assert distances_to_mean(states) == pytest.approx([5.0, 5.0])
    assert distances_to_first(states) == norms(states) == pytest.approx([0.0, 10.0])
    assert distances_to_mean(states[:1]) == [0.0]


@pytest.mark.parametrize("rule", [average, factorize])
def test_interference_against_the_dense_formula(rule):
    states, weights = [lora_state(seed) for seed in range(3)], [0.2, 0.3, 0.5]
    mixed = rule(states, weights)
    lost = mean_products(states, weights)
    kept = dense_products(mixed)
    expected = math.sqrt(sum(float((lost[k] - kept[k]).square().sum()) for k in lost))
    assert interference(states, weights, mixed) == pytest.approx(expected)


def test_interference_is_zero_where_products_mix_exactly():
    states = share_a([lora_state(seed) for seed in range(3)])
    weights = [0.2, 0.3, 0.5]
    assert interference(states, weights, frozen(states, weights)) < 1e-6
    dense = [{"x": torch.ones(2)}] * 2
    assert interference(dense, [0.5, 0.5], dense[0]) == 0.0
