from __future__ import annotations

import pytest
import torch

from flwr_decaf.rules import average
from tests.states import dense_products, lora_state, mean_products


def test_values_worked_out_by_hand():
    own, other = {"x": torch.tensor([1.0, -2.0])}, {"x": torch.tensor([5.0, 2.0])}
    assert average([own, other], [0.75, 0.25])["x"].tolist() == [2.0, -1.0]


def test_a_round_over_a_doubly_stochastic_w_keeps_the_mean_of_a_and_of_b():  # invariant 2
    w = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25], [0.0, 0.25, 0.75]])
    states = [lora_state(seed) for seed in range(3)]
    mixed = [
        average([states[i], *states[:i], *states[i + 1 :]],
                [w[i, i], *w[i, :i], *w[i, i + 1 :]])
        for i in range(3)
    ]  # fmt: skip
    for key in states[0]:
        torch.testing.assert_close(sum(s[key] for s in mixed), sum(s[key] for s in states))
    before = mean_products(states, [1 / 3] * 3)["model.q"]
    after = mean_products(mixed, [1 / 3] * 3)["model.q"]
    assert (before - after).norm() > 0.1 * before.norm()  # the mean product is not kept


def test_the_product_is_off_by_the_interference():  # invariant 3
    weights = [0.2, 0.3, 0.5]
    states = [lora_state(seed) for seed in range(3)]
    mixed = average(states, weights)
    a, b = "model.up.lora_A.weight", "model.up.lora_B.weight"
    lost = mean_products(states, weights)["model.up"] - dense_products(mixed)["model.up"]
    cross = sum(
        w * (s[b] - mixed[b]) @ (s[a] - mixed[a]) for w, s in zip(weights, states, strict=True)
    )
    torch.testing.assert_close(lost, cross)


def test_the_node_itself_is_in_the_mix():  # known defect 4: replacement by the one neighbour
    own, other = lora_state(0), lora_state(1)
    key = "model.classifier.weight"
    assert torch.equal(average([own, other], [1.0, 0.0])[key], own[key])


def test_tensors_are_matched_by_name_not_by_position():  # known defect 6
    own, other = lora_state(0), lora_state(1)
    shuffled = dict(reversed(other.items()))
    expected, mixed = average([own, other], [0.5, 0.5]), average([own, shuffled], [0.5, 0.5])
    assert all(torch.equal(mixed[key], expected[key]) for key in expected)


def test_the_product_depends_on_the_basis_of_the_factors():  # invariant 8: what DeCAF avoids
    states = [lora_state(0), lora_state(1)]
    turned = dict(states[1])
    r = torch.diag(torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64))
    turned["model.q.lora_A.weight"] = r @ turned["model.q.lora_A.weight"]
    turned["model.q.lora_B.weight"] = turned["model.q.lora_B.weight"] @ r.inverse()
    plain = dense_products(average(states, [0.5, 0.5]))["model.q"]
    other = dense_products(average([states[0], turned], [0.5, 0.5]))["model.q"]
    assert (plain - other).norm() > 0.1 * plain.norm()


def test_a_variance_of_batch_norm_never_becomes_negative():
    states = [{"bn.running_mean": torch.tensor([x]), "bn.running_var": torch.tensor([x])}
              for x in (0.3, 0.1, 1.0)]  # fmt: skip
    mixed = average(states, [1.0, 0.5, -0.5])
    assert mixed["bn.running_mean"].item() == pytest.approx(-0.15)
    assert mixed["bn.running_var"].item() == 0
