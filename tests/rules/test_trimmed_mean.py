from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import trim_mean

from flwr_decaf.rules import RULES
from flwr_decaf.rules.trimmed_mean import trimming
from tests.states import dense_products, lora_state

HEAD = "model.classifier.weight"


@pytest.mark.parametrize(("size", "byzantine"), [(3, 1), (5, 1), (5, 2), (8, 3)])
def test_coordinates_agree_with_scipys_trimmed_mean(size, byzantine):
    states = [lora_state(seed) for seed in range(size)]
    mixed = trimming(RULES["average"], byzantine)(states, [1 / size] * size)
    expected = trim_mean(np.stack([s[HEAD] for s in states]), byzantine / size + 1e-9, axis=0)
    np.testing.assert_allclose(mixed[HEAD], expected)


@pytest.mark.parametrize("name", ["average", "factorize"])
def test_products_are_trimmed_and_factorized_by_the_best_rank_r(name):
    states = [lora_state(seed, rank=2) for seed in range(3)]
    mixed = dense_products(trimming(RULES[name], 1)(states, [1 / 3] * 3))
    for layer, product in mixed.items():
        stacked = np.stack([dense_products(s)[layer] for s in states])
        u, sigma, vh = np.linalg.svd(np.median(stacked, axis=0))
        np.testing.assert_allclose(product, u[:, :2] * sigma[:2] @ vh[:2], atol=1e-10)


def test_where_only_b_is_exchanged_its_coordinates_are_trimmed():
    states = [
        {name: x for name, x in lora_state(seed).items() if "lora_A" not in name}
        for seed in range(3)
    ]
    mixed = trimming(RULES["frozen"], 1)(states, [1 / 3] * 3)
    for name, x in mixed.items():
        torch.testing.assert_close(x, torch.stack([s[name] for s in states]).median(dim=0).values)


def test_an_outlier_is_trimmed_whatever_its_values():
    honest = [lora_state(seed) for seed in range(4)]
    for offset in (1e6, -1e6):
        outlier = {name: x + offset for name, x in honest[0].items()}
        mixed = trimming(RULES["average"], 1)([*honest, outlier], [0.2] * 5)[HEAD]
        stacked = torch.stack([s[HEAD] for s in honest])
        assert (mixed >= stacked.amin(dim=0)).all()
        assert (mixed <= stacked.amax(dim=0)).all()


def test_a_node_with_too_few_neighbours_keeps_its_own_state():
    states = [lora_state(0), lora_state(1)]
    mixed = trimming(RULES["average"], 1)(states, [0.5, 0.5])
    assert all(torch.equal(mixed[name], x) for name, x in states[0].items())


def test_without_byzantine_neighbours_the_rule_is_unchanged():
    states, weights = [lora_state(0), lora_state(1)], [0.25, 0.75]
    plain, trimmed = (
        rule(states, weights) for rule in (RULES["average"], trimming(RULES["average"], 0))
    )
    assert all(torch.equal(plain[name], trimmed[name]) for name in plain)
