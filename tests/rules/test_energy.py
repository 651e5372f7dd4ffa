"""The rank that holds a share of the energy of a product, by hand and by a dense SVD."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from flwr_decaf.rules import factorize
from flwr_decaf.rules.energy import keep_energy, keep_residual, mean_rank
from flwr_decaf.rules.ranks import padded_to
from tests.states import SHAPES, dense_products, lora_state

A, B = "model.q.lora_A.weight", "model.q.lora_B.weight"


def of_singular_values(*values, d_out=5, d_in=9, dtype=torch.float64):
    """A pair whose product has these singular values, in a basis of its own, not balanced."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(d_out + d_in, 5, dtype=torch.float64, generator=generator)
    u, v = (torch.linalg.qr(x)[0][:, : len(values)] for x in draw.split([d_out, d_in]))
    twist = torch.randn(len(values), len(values), dtype=torch.float64, generator=generator)
    s = torch.tensor(values, dtype=torch.float64)
    return {A: torch.linalg.solve(twist, v.T).to(dtype), B: (u * s @ twist).to(dtype)}


@pytest.mark.parametrize(
    ("energy", "rank"), [(1.0, 4), (0.9999, 4), (0.99, 3), (0.95, 2), (0.9, 2), (0.8, 1), (0.1, 1)]
)
def test_the_rank_is_the_lowest_that_holds_the_share(energy, rank):
    # Squares 100, 20, 4 and 1 of 125: one component holds 0.8, two 0.96, and three 0.992.
    state = of_singular_values(10, math.sqrt(20), 2, 1)
    kept = keep_energy(state, energy - 1e-9)  # 0.8 is held exactly, up to rounding
    assert (kept[A].shape, kept[B].shape) == ((rank, 9), (5, rank))
    u, s, vh = torch.linalg.svd(dense_products(state)["model.q"], full_matrices=False)
    best = u[:, :rank] * s[:rank] @ vh[:rank]
    torch.testing.assert_close(dense_products(kept)["model.q"], best)
    if rank < 4:
        torch.testing.assert_close(kept[B].T @ kept[B], kept[A] @ kept[A].T)  # balanced
    else:
        assert kept[A] is state[A]


def test_with_a_share_of_one_the_state_itself_is_kept():
    state = lora_state(0)
    assert keep_energy(state, 1.0) is state


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 0.999])
def test_each_layer_has_its_own_rank_and_error(energy):
    state = lora_state(1, rank=4)
    kept = keep_energy(state, energy)
    assert list(kept) == list(state)
    ranks = []
    for layer, p in dense_products(state).items():
        s = np.linalg.svd(p.numpy(), compute_uv=False)
        shares = (s**2).cumsum() / (s**2).sum()
        ranks.append(int(np.argmax(shares >= energy)) + 1)
        assert kept[f"{layer}.lora_A.weight"].shape[0] == ranks[-1]
        error = (p - dense_products(kept)[layer]).norm() / p.norm()
        assert float(error) == pytest.approx(math.sqrt(max(1 - shares[ranks[-1] - 1], 0)), abs=1e-9)
    assert mean_rank(kept) == pytest.approx(np.mean(ranks))
    assert torch.equal(kept["model.classifier.weight"], state["model.classifier.weight"])


def test_a_product_of_zero_has_rank_one_and_keeps_a_row_of_a():
    state = {name: torch.zeros_like(x) if "B" in name else x for name, x in lora_state(0).items()}
    kept = keep_energy(state, 0.99)
    assert mean_rank(kept) == 1
    for layer, (d_out, _) in SHAPES.items():
        a, b = (f"model.{layer}.lora_{factor}.weight" for factor in "AB")
        assert torch.equal(kept[a], state[a][:1])
        assert torch.equal(kept[b], torch.zeros(d_out, 1, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_factors_of_low_precision_are_truncated_in_single(dtype):
    state = of_singular_values(4, 1, 0.1, 0.01, dtype=dtype)
    kept = keep_energy(state, 0.99)
    assert (kept[A].dtype, kept[B].dtype) == (dtype, dtype)
    single = keep_energy({name: x.float() for name, x in state.items()}, 0.99)
    assert mean_rank(kept) == 2  # 17 of 17.0101
    assert all(torch.equal(x, single[name].to(dtype)) for name, x in kept.items())


def test_convolutions_keep_their_kernels():
    state = {"c.lora_A.weight": torch.randn(3, 4, 3, 3), "c.lora_B.weight": torch.zeros(6, 3, 1, 1)}
    state["c.lora_B.weight"][:, 0] = 1.0
    kept = keep_energy(state, 0.99)
    assert [tuple(x.shape) for x in kept.values()] == [(1, 4, 3, 3), (6, 1, 1, 1)]
    flat = [x.flatten(1) for x in (*state.values(), *kept.values())]
    torch.testing.assert_close(flat[3] @ flat[2], flat[1] @ flat[0])


def test_what_is_not_posted_counts_in_full():
    # 0.8 of the energy is in one component: the others, 2 and 1, are divided by the weight.
    state = of_singular_values(6, 2, 1)
    scaled = keep_residual(state, 0.8, weight=0.25)
    assert (scaled[A].shape, scaled[B].shape) == ((3, 9), (5, 3))
    values = torch.linalg.svdvals(dense_products(scaled)["model.q"])[:3]
    torch.testing.assert_close(values, torch.tensor([8.0, 6.0, 4.0], dtype=torch.float64))
    whole = keep_residual(state, 0.99, weight=0.25)  # two components hold 40 of 41
    assert all(whole[name] is x for name, x in state.items())
    assert all(keep_residual(state, 1.0, 0.25)[name] is x for name, x in state.items())


@pytest.mark.parametrize("neighbours", [0, 1, 2])
def test_a_node_mixes_what_is_posted_and_keeps_the_rest(neighbours):
    own, *others = (lora_state(seed) for seed in range(neighbours + 1))
    posts = [keep_energy(state, 0.8) for state in others]
    weights = [1 - 0.3 * neighbours, *[0.3] * neighbours]
    mixed = factorize([keep_residual(own, 0.8, weights[0]), *posts], weights)
    assert {name: x.shape for name, x in mixed.items()} == {n: x.shape for n, x in own.items()}
    seen = dense_products(keep_energy(own, 0.8))
    for layer, p in dense_products(own).items():
        mean = p + sum(0.3 * (dense_products(post)[layer] - seen[layer]) for post in posts)
        u, s, vh = torch.linalg.svd(mean, full_matrices=False)
        expected = u[:, :3] * s[:3] @ vh[:3]
        torch.testing.assert_close(dense_products(mixed)[layer], expected)


def test_padding_keeps_the_product_and_the_components_trainable():
    like, state = lora_state(0), lora_state(1)
    kept = keep_energy(state, 0.8)
    padded = padded_to(like, kept)
    assert {name: x.shape for name, x in padded.items()} == {n: x.shape for n, x in like.items()}
    for layer, p in dense_products(kept).items():
        torch.testing.assert_close(dense_products(padded)[layer], p)
        a, b = f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"
        rank = len(kept[a])
        assert torch.equal(padded[a][rank:], like[a][rank:])
        assert not padded[b][:, rank:].any()
    assert padded_to(like, state) == state
