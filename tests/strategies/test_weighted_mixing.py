"""Mixes in which a node counts by its number of examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies import DLoRA, RelaySum
from flwr_decaf.topology.mixing_matrix import build_network
from tests.apps.pure_mixing import evaluate_held_value, start_value, train_identity
from tests.local_grid import LocalGrid

START = {"x": torch.zeros(2, dtype=torch.float64)}
BASE = {"dynamic": "base", "topology_options": {"peers": 2}, "mixing_steps": "period"}

app = ClientApp(mods=[peer_mixing])
app.evaluate()(evaluate_held_value)


@app.train()
def train(msg, context):
    reply = train_identity(msg, context)
    examples = int(context.node_config["partition-id"]) + 1
    reply.content["metrics"] = MetricRecord({"num-examples": examples, "rows": 2 * examples - 2})
    return reply


def held_after(strategy, n, rounds=1):
    grid = LocalGrid(app, n)
    strategy.start(grid, ArrayRecord(START), num_rounds=rounds)
    return torch.stack([state["x"] for state in strategy.collect(grid).values()]).numpy()


def starts(n):
    return np.stack([start_value(place).numpy() for place in range(n)])


def fedavg(n, counts):
    return np.average(starts(n), axis=0, weights=counts)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10])
def test_a_period_gives_every_node_fedavgs_average(n):
    held = held_after(DLoRA(**BASE, weighted_mixing=True), n, rounds=2)
    np.testing.assert_allclose(held, np.tile(fedavg(n, range(1, n + 1)), (n, 1)), atol=1e-12)


def test_the_weight_is_the_metric_that_fedavg_takes():
    strategy = DLoRA(**BASE, weighted_mixing=True, weighted_by_key="rows", evaluate_every=0)
    held = held_after(strategy, 5)  # node 0 has no rows
    np.testing.assert_allclose(held, np.tile(fedavg(5, [0, 2, 4, 6, 8]), (5, 1)), atol=1e-12)


def test_one_mix_on_a_ring_weighs_each_neighbourhood():
    n, w, counts = 4, build_network("ring", 4), np.arange(1.0, 5.0)
    rows = w * counts / (w @ counts)[:, None]
    held = held_after(DLoRA("ring", weighted_mixing=True), n)
    np.testing.assert_allclose(held, rows @ starts(n), atol=1e-13)


def test_by_default_nodes_count_equally():
    held = held_after(DLoRA(**BASE), 5)
    np.testing.assert_allclose(held, np.tile(starts(5).mean(axis=0), (5, 1)), atol=1e-12)


def test_quantized_posts_are_close():
    held = held_after(DLoRA(**BASE, weighted_mixing=True, posts="int8"), 6)
    np.testing.assert_allclose(held, np.tile(fedavg(6, range(1, 7)), (6, 1)), atol=0.5)


def test_a_missing_metric_is_named():
    with pytest.raises(ValueError, match=r"every reply must report 'size', by which nodes"):
        held_after(DLoRA(**BASE, weighted_mixing=True, weighted_by_key="size"), 3)


def test_relay_sum_refuses_it():
    with pytest.raises(ValueError, match=r"weighted-mixing must be false with relay-sum"):
        RelaySum(weighted_mixing=True)
