from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_decaf.rules import average, factorize
from tests.states import dense_products, lora_state, mean_products

WEIGHTS = [0.2, 0.3, 0.5]


def best_error(p: torch.Tensor, rank: int) -> float:
    """Frobenius distance of a matrix to its best approximation of a rank (Eckart-Young)."""
    return float(torch.linalg.svdvals(p)[rank:].square().sum().sqrt())


def test_values_worked_out_by_hand():
    # P = 1/2 [[4, 0], [0, 0]] + 1/2 [[0, 0], [0, 2]] = diag(2, 1); best rank 1: diag(2, 0).
    own = {"l.lora_A.weight": torch.tensor([[4.0, 0.0, 0.0]]),
           "l.lora_B.weight": torch.tensor([[1.0], [0.0]])}  # fmt: skip
    other = {"l.lora_A.weight": torch.tensor([[0.0, 2.0, 0.0]]),
             "l.lora_B.weight": torch.tensor([[0.0], [1.0]])}  # fmt: skip
    mixed = factorize([own, other], [0.5, 0.5])
    root = 2**0.5
    torch.testing.assert_close(mixed["l.lora_A.weight"], torch.tensor([[root, 0.0, 0.0]]))
    torch.testing.assert_close(mixed["l.lora_B.weight"], torch.tensor([[root], [0.0]]))


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_the_product_is_the_best_of_its_rank(rank):  # invariant 4; defect 1 (transposed SVD)
    states = [lora_state(seed, rank=rank) for seed in range(3)]
    mixed = dense_products(factorize(states, WEIGHTS))
    averaged = dense_products(average(states, WEIGHTS))
    for layer, p in mean_products(states, WEIGHTS).items():
        error = float((p - mixed[layer]).norm())
        assert error == pytest.approx(best_error(p, rank), rel=1e-9, abs=1e-12)
        assert error <= float((p - averaged[layer]).norm()) + 1e-12


def test_the_factors_are_balanced():  # invariant 4
    mixed = factorize([lora_state(seed) for seed in range(3)], WEIGHTS)
    for layer in ("q", "v", "up"):
        a, b = mixed[f"model.{layer}.lora_A.weight"], mixed[f"model.{layer}.lora_B.weight"]
        torch.testing.assert_close(b.T @ b, a @ a.T)


def test_exact_when_nodes_share_the_row_space():  # invariant 5
    states = [lora_state(seed) for seed in range(3)]
    for state in states[1:]:
        for key in state:
            if "lora_A" in key:
                state[key] = states[0][key]
    mixed = dense_products(factorize(states, WEIGHTS))
    for layer, p in mean_products(states, WEIGHTS).items():
        torch.testing.assert_close(mixed[layer], p)


@pytest.mark.parametrize("rank", [5, 7, 30])
def test_exact_when_the_rank_is_that_of_the_layer(rank):  # invariant 5; r may exceed both sides
    states = [lora_state(seed, rank=rank, shapes={"q": (5, 9)}) for seed in range(3)]
    mixed = factorize(states, WEIGHTS)
    expected = mean_products(states, WEIGHTS)["model.q"]
    torch.testing.assert_close(dense_products(mixed)["model.q"], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_zero_product_stays_trainable(dtype):  # LoRA's start: B = 0
    states = [lora_state(seed, dtype=dtype) for seed in range(2)]
    for state in states:
        for key in state:
            if "lora_B" in key:
                state[key] = torch.zeros_like(state[key])
    mixed = factorize(states, [0.5, 0.5])
    for key in mixed:
        if "lora_A" in key:
            assert torch.equal(mixed[key], states[0][key])
        if "lora_B" in key:
            assert not mixed[key].any()


def test_a_component_of_zero_keeps_the_nodes_own_row_of_a():
    # rank(P) = 1 at r = 3: two components would be zero in A and in B, and never train again.
    states = [lora_state(0)]
    for key in states[0]:
        if "lora_B" in key:
            states[0][key][:, 1:] = 0.0
    mixed = factorize(states, [1.0])
    for layer in ("q", "v", "up"):
        a, b = mixed[f"model.{layer}.lora_A.weight"], mixed[f"model.{layer}.lora_B.weight"]
        assert not b[:, 1:].any()
        assert torch.equal(a[1:], states[0][f"model.{layer}.lora_A.weight"][1:])
    expected = dense_products(states[0])
    for layer, product in dense_products(mixed).items():
        torch.testing.assert_close(product, expected[layer])


def test_the_basis_of_the_factors_does_not_matter():  # invariant 8
    states = [lora_state(0), lora_state(1)]
    turned = dict(states[1])
    r = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for layer in ("q", "v", "up"):
        a, b = f"model.{layer}.lora_A.weight", f"model.{layer}.lora_B.weight"
        turned[a], turned[b] = r @ states[1][a], states[1][b] @ r.inverse()
    plain = dense_products(factorize(states, [0.5, 0.5]))
    other = dense_products(factorize([states[0], turned], [0.5, 0.5]))
    for layer, product in plain.items():
        torch.testing.assert_close(product, other[layer])


def test_on_a_complete_graph_all_nodes_agree_after_one_round():  # invariant 6
    states = [lora_state(seed) for seed in range(4)]
    mixed = [factorize([states[i], *states[:i], *states[i + 1 :]], [0.25] * 4) for i in range(4)]
    for other in mixed[1:]:
        for key in other:
            torch.testing.assert_close(mixed[0][key], other[key])
    for layer, p in mean_products(states, [0.25] * 4).items():
        u, s, vh = torch.linalg.svd(p)
        torch.testing.assert_close(dense_products(mixed[0])[layer], u[:, :3] * s[:3] @ vh[:3])


def test_convolutions_and_embeddings():
    generator = torch.Generator().manual_seed(0)
    names = {"c.lora_A.weight": (2, 3, 3, 3), "c.lora_B.weight": (5, 2, 1, 1),
             "e.lora_embedding_A": (2, 11), "e.lora_embedding_B": (4, 2)}  # fmt: skip
    states = [
        {name: torch.randn(*shape, generator=generator) for name, shape in names.items()}
        for _ in range(2)
    ]
    mixed = factorize(states, [0.5, 0.5])
    assert {name: tuple(x.shape) for name, x in mixed.items()} == names
    for a, b in (
        ("c.lora_A.weight", "c.lora_B.weight"),
        ("e.lora_embedding_A", "e.lora_embedding_B"),
    ):
        p = sum(0.5 * s[b].flatten(1) @ s[a].flatten(1) for s in states)
        error = float((p - mixed[b].flatten(1) @ mixed[a].flatten(1)).norm())
        assert error == pytest.approx(best_error(p, 2), rel=1e-4)


def test_a_model_without_lora_is_rejected():
    with pytest.raises(ValueError, match=r"no lora_A, lora_B pair; use DLoRA"):
        factorize([{"conv.weight": torch.ones(2, 2)}], [1.0])


@settings(max_examples=40)
@given(
    d_out=st.integers(1, 12),
    d_in=st.integers(1, 12),
    rank=st.integers(1, 5),
    neighbours=st.integers(0, 4),
    seed=st.integers(0, 2**20),
)
def test_the_error_is_the_smallest_possible_for_all_shapes(d_out, d_in, rank, neighbours, seed):
    shapes = {"x": (d_out, d_in)}
    states = [lora_state(seed + k, rank, shapes, head=False) for k in range(neighbours + 1)]
    weights = [1 / len(states)] * len(states)
    p = mean_products(states, weights)["model.x"]
    error = float((p - dense_products(factorize(states, weights))["model.x"]).norm())
    assert error == pytest.approx(best_error(p, rank), rel=1e-7, abs=1e-9 * float(p.norm()))
