"""Products of different ranks: mixing, truncating and comparing them."""

from __future__ import annotations

import math

import pytest
import torch

from flwr_decaf.distances import distances_to_first, distances_to_mean, interference, norms
from flwr_decaf.lora import size_in_bytes
from flwr_decaf.rules import ROBUST, average, factorize
from flwr_decaf.rules.ranks import at_rank, average_at_rank_of, have_one_rank
from tests.states import dense_products, lora_state, mean_products

WEIGHTS = [0.5, 0.3, 0.2]
MIXED = [lora_state(seed, rank) for seed, rank in enumerate((4, 1, 2))]


def best_of_rank(p, rank):
    u, s, vh = torch.linalg.svd(p, full_matrices=False)
    return u[:, :rank] * s[:rank] @ vh[:rank]


@pytest.mark.parametrize("own", [0, 1, 2])
def test_the_mean_product_is_truncated_to_the_node_s_own_rank(own):
    order = [own, *({0, 1, 2} - {own})]
    states, weights = [MIXED[i] for i in order], [WEIGHTS[i] for i in order]
    mixed = factorize(states, weights)
    assert {name: x.shape for name, x in mixed.items()} == {
        name: x.shape for name, x in MIXED[own].items()
    }
    for layer, p in mean_products(states, weights).items():
        expected = best_of_rank(p, (4, 1, 2)[own])
        torch.testing.assert_close(dense_products(mixed)[layer], expected)


def test_a_node_whose_rank_is_the_sum_of_the_ranks_loses_nothing():
    narrow = [lora_state(seed, rank) for seed, rank in ((1, 1), (2, 2))]
    own = lora_state(0, rank=5) | {
        name: torch.cat([x, torch.zeros(len(x), 3).double()], dim=1)
        for name, x in lora_state(0, rank=2).items()
        if "lora_B" in name
    }  # of rank 2
    mixed = factorize([own, *narrow], WEIGHTS)
    for layer, p in mean_products([own, *narrow], WEIGHTS).items():
        torch.testing.assert_close(dense_products(mixed)[layer], p)
    assert interference([own, *narrow], WEIGHTS, mixed) == pytest.approx(0, abs=1e-6)


def test_on_the_complete_graph_all_nodes_hold_truncations_of_one_product():
    weights = [1 / 3] * 3
    orders = [[0, 1, 2], [1, 0, 2], [2, 0, 1]]
    held = [factorize([MIXED[i] for i in order], weights) for order in orders]
    for layer, p in mean_products(MIXED, weights).items():
        for state, rank in zip(held, (4, 1, 2), strict=True):
            torch.testing.assert_close(dense_products(state)[layer], best_of_rank(p, rank))


@pytest.mark.parametrize("rank", [1, 2, 3, 9])
def test_at_rank_is_the_best_approximation(rank):
    state = lora_state(0, rank=3)
    cut = at_rank(state, rank)
    assert (cut is state) == (rank >= 3)
    for layer, p in dense_products(state).items():
        torch.testing.assert_close(dense_products(cut)[layer], best_of_rank(p, rank))
    torch.testing.assert_close(cut["model.classifier.weight"], state["model.classifier.weight"])


def test_at_rank_keeps_the_first_rows_of_a_before_the_first_step():
    state = {n: torch.zeros_like(x) if "B" in n else x for n, x in lora_state(0, rank=3).items()}
    cut = at_rank(state, 2)
    for name, x in cut.items():
        if "lora_A" in name:
            assert torch.equal(x, state[name][:2])
        if "lora_B" in name:
            assert torch.equal(x, torch.zeros(len(x), 2, dtype=x.dtype))


def test_the_average_has_the_rank_of_another_state():
    like = lora_state(9, rank=4)
    mean = average_at_rank_of(like, MIXED, factorize)
    for layer, p in mean_products(MIXED, [1 / 3] * 3).items():
        torch.testing.assert_close(dense_products(mean)[layer], best_of_rank(p, 4))
    same = [lora_state(seed) for seed in range(2)]
    expected = average(same, [0.5, 0.5])
    for name, x in average_at_rank_of(lora_state(9), same, average).items():
        assert torch.equal(x, expected[name])


def stacked(state):
    dense = dense_products(state) | {"head": state["model.classifier.weight"].double()}
    return torch.cat([x.flatten() for x in dense.values()])


def test_distances_and_norms_are_those_of_the_products():
    rows = torch.stack([stacked(state) for state in MIXED])
    to_mean = (rows - rows.mean(dim=0)).norm(dim=1)
    assert distances_to_mean(MIXED) == pytest.approx(to_mean.tolist())
    assert distances_to_first(MIXED) == pytest.approx(
        (rows - rows[0]).norm(dim=1).tolist(), abs=1e-6
    )
    assert norms(MIXED) == pytest.approx(rows.norm(dim=1).tolist())
    wide = [lora_state(seed, rank, {"w": (40, 50)}) for seed, rank in enumerate((1, 3))]
    rows = torch.stack([stacked(state) for state in wide])  # by Gram matrices
    expected = math.sqrt(float((rows - rows.mean(dim=0)).square().sum(dim=1)[0]))
    assert distances_to_mean(wide)[0] == pytest.approx(expected)


def test_the_trimmed_mean_is_that_of_the_products():
    mixed = ROBUST["trimmed-mean"](factorize, 1)(MIXED, WEIGHTS)
    for layer, held in dense_products(mixed).items():
        products = torch.stack([dense_products(state)[layer] for state in MIXED])
        torch.testing.assert_close(held, best_of_rank(products.median(dim=0).values, 4))


def test_sizes_follow_the_ranks():
    wide, narrow = (size_in_bytes(lora_state(0, rank, head=False)) for rank in (4, 1))
    assert wide == 4 * narrow
    assert have_one_rank([MIXED[0], lora_state(7, rank=4)])
    assert not have_one_rank(MIXED)
