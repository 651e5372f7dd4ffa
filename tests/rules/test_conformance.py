"""What every mixing rule must satisfy. A new rule needs one row in CASES."""

from __future__ import annotations

import pytest
import torch

from flwr_decaf.rules import ROBUST, RULES
from tests.states import dense_products, lora_state, mean_products, share_a

# rule -> how its neighbourhood's states are related
CASES = {"average": list, "factorize": list, "frozen": share_a, "matched": list}
HARDENED = {
    f"{name}, {robust}": (ROBUST[robust](rule, 1), CASES[name])
    for name, rule in RULES.items()
    for robust in ROBUST
    if robust != "none"
}
EVERY = {name: (RULES[name], relation) for name, relation in CASES.items()} | HARDENED

NEIGHBOURHOODS = [[1.0], [0.5, 0.5], [0.2, 0.3, 0.5]]


def neighbourhood(name, size, **options):
    return EVERY[name][1]([lora_state(seed, **options) for seed in range(size)])


def test_every_rule_has_a_row():
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("weights", NEIGHBOURHOODS, ids=len)
@pytest.mark.parametrize("name", EVERY)
class TestEveryRule:
    def test_keeps_names_order_shapes_and_dtypes(self, name, weights):
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            states = neighbourhood(name, len(weights), dtype=dtype)
            mixed = EVERY[name][0](states, weights)
            assert list(mixed) == list(states[0])
            for key, tensor in mixed.items():
                assert tensor.shape == states[0][key].shape
                assert tensor.dtype == dtype
                assert torch.isfinite(tensor).all()

    def test_leaves_its_arguments_untouched(self, name, weights):
        states = neighbourhood(name, len(weights))
        before = [{key: x.clone() for key, x in state.items()} for state in states]
        mixed = EVERY[name][0](states, weights)
        for x in mixed.values():
            x.add_(1.0)  # nor may the result share memory with them
        for state, old in zip(states, before, strict=True):
            assert all(torch.equal(state[key], old[key]) for key in old)

    def test_identical_states_are_a_fixed_point_of_the_product(self, name, weights):
        state = lora_state(7)
        mixed = EVERY[name][0]([state] * len(weights), weights)
        for layer, expected in dense_products(state).items():
            torch.testing.assert_close(dense_products(mixed)[layer], expected)

    def test_the_order_of_the_neighbours_does_not_matter(self, name, weights):
        states = neighbourhood(name, len(weights))
        order = [0, *range(len(weights) - 1, 0, -1)]
        mixed = EVERY[name][0](states, weights)
        other = EVERY[name][0]([states[i] for i in order], [weights[i] for i in order])
        for key in mixed:
            torch.testing.assert_close(mixed[key], other[key])

    def test_half_precision_is_mixed_in_single(self, name, weights):
        half = neighbourhood(name, len(weights), dtype=torch.float16)
        single = [{key: x.float() for key, x in state.items()} for state in half]
        mixed, expected = EVERY[name][0](half, weights), EVERY[name][0](single, weights)
        for key in mixed:
            assert torch.equal(mixed[key], expected[key].half())

    def test_integer_buffers_survive(self, name, weights):
        states = neighbourhood(name, len(weights))
        for count, state in enumerate(states):
            state["bn.num_batches_tracked"] = torch.tensor(count)
        assert EVERY[name][0](states, weights)["bn.num_batches_tracked"] == 0


@pytest.mark.parametrize("name", EVERY)
class TestEveryRuleRejects:
    def test_other_names(self, name):
        states = neighbourhood(name, 2)
        states[1] = {**states[1], "extra": torch.zeros(1)}
        with pytest.raises(ValueError, match="extra is in only one of them"):
            EVERY[name][0](states, [0.5, 0.5])

    def test_other_shapes(self, name):
        wider = lora_state(1, shapes={"q": (5, 10), "v": (5, 9), "up": (12, 7)})
        with pytest.raises(ValueError, match=r"lora_A.weight must be \(3, 9\)"):
            EVERY[name][0]([lora_state(0), wider], [0.5, 0.5])

    def test_other_ranks_unless_it_mixes_products(self, name):
        states = [lora_state(0), lora_state(1, rank=2)]
        if name == "factorize" or name in HARDENED:
            assert [*map(len, EVERY[name][0](states, [0.5, 0.5]).values())] == [
                *map(len, states[0].values())
            ]
            return
        with pytest.raises(ValueError, match=r"lora_A.weight must be \(3, 9\)"):
            EVERY[name][0](states, [0.5, 0.5])

    def test_factors_of_a_pair_with_two_ranks(self, name):
        other = lora_state(1, rank=2) | {"model.q.lora_A.weight": torch.ones(3, 9).double()}
        with pytest.raises(ValueError, match="lora_[AB].weight must"):
            EVERY[name][0]([lora_state(0), other], [0.5, 0.5])

    def test_other_dtypes(self, name):
        with pytest.raises(ValueError, match="float64"):
            EVERY[name][0]([lora_state(0), lora_state(1, dtype=torch.float32)], [0.5, 0.5])

    @pytest.mark.parametrize("weights", [[0.5], [0.5, 0.4]])
    def test_weights_that_do_not_fit(self, name, weights):
        with pytest.raises(ValueError, match="weight"):
            EVERY[name][0](neighbourhood(name, 2), weights)

    def test_negative_weights_unless_it_is_linear(self, name):
        own, other = neighbourhood(name, 2)
        if name in HARDENED:
            with pytest.raises(ValueError, match="weights of this rule must be >= 0"):
                EVERY[name][0]([own, other], [1.5, -0.5])
            return
        mixed = EVERY[name][0]([own, other, other], [1.0, 0.5, -0.5])
        for layer, product in dense_products(own).items():
            torch.testing.assert_close(dense_products(mixed)[layer], product)

    def test_no_states(self, name):
        with pytest.raises(ValueError, match="got 0 states"):
            EVERY[name][0]([], [])


@pytest.mark.parametrize("weights", NEIGHBOURHOODS, ids=len)
@pytest.mark.parametrize("name", CASES)
def test_dense_tensors_are_averaged(name, weights):
    states = neighbourhood(name, len(weights))
    key = "model.classifier.weight"
    expected = sum(w * s[key] for w, s in zip(weights, states, strict=True))
    torch.testing.assert_close(RULES[name](states, weights)[key], expected)


@pytest.mark.parametrize("name", ["factorize", "frozen"])
def test_rules_that_promise_it_keep_the_product(name):
    # Exact here: for "frozen" by linearity, for "factorize" since rank(P) <= min(d) <= r.
    rank = 3 if name == "frozen" else 9
    weights = [0.2, 0.3, 0.5]
    states = neighbourhood(name, 3, rank=rank)
    mixed = dense_products(RULES[name](states, weights))
    for layer, expected in mean_products(states, weights).items():
        torch.testing.assert_close(mixed[layer], expected)


@pytest.mark.parametrize("name", EVERY)
def test_only_rules_that_mix_products_refuse_the_norms_of_dora(name):
    states = neighbourhood(name, 3)
    for state in states:
        state["model.q.lora_magnitude_vector"] = torch.ones(5, dtype=torch.float64)
    if name in ("average", "frozen", "matched"):
        assert "model.q.lora_magnitude_vector" in EVERY[name][0](states, [0.2, 0.3, 0.5])
    else:
        with pytest.raises(ValueError, match="model.q.lora_magnitude_vector is a magnitude vecto"):
            EVERY[name][0](states, [0.2, 0.3, 0.5])
