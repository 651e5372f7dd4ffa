"""Mixes in which nodes are weighted by their numbers of examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies import DLoRA, RelaySum
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from tests.apps.pure_mixing import evaluate_held_value, train_identity
from tests.local_grid import LocalGrid
from tests.strategies.pure_runs import START, starts

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
    n, w, counts = 4, build_mixing_matrix("ring", 4), np.arange(1.0, 5.0)
    rows = w * counts / (w @ counts)[:, None]
    held = held_after(DLoRA("ring", weighted_mixing=True), n)
    np.testing.assert_allclose(held, rows @ starts(n), atol=1e-13)


def test_by_default_nodes_count_equally():
    held = held_after(DLoRA(**BASE), 5)
    np.testing.assert_allclose(held, np.tile(starts(5).mean(axis=0), (5, 1)), atol=1e-12)


def test_quantized_posts_are_close():
    held = held_after(DLoRA(**BASE, weighted_mixing=True, posts="bf16"), 6)
    exact = np.tile(fedavg(6, range(1, 7)), (6, 1))
    np.testing.assert_allclose(held, exact, rtol=0.02)
    assert not np.allclose(held, exact, rtol=1e-5)


@pytest.mark.parametrize("count", [float("nan"), float("inf"), -1.0])
def test_a_node_with_a_count_that_is_no_weight_counts_as_missing(count):
    failed = []

    def train_with_a_bad_count(msg, context):
        reply = train(msg, context)
        if int(context.node_config["partition-id"]) == 2:
            reply.content["metrics"] = MetricRecord({"num-examples": count})
        return reply

    bad = ClientApp(mods=[peer_mixing])
    bad.train()(train_with_a_bad_count)
    grid = LocalGrid(bad, 4)
    strategy = DLoRA("complete", weighted_mixing=True, on_failure=lambda *what: failed.append(what))
    strategy.start(grid, ArrayRecord(START), num_rounds=1)
    held = {node: state["x"].numpy() for node, state in strategy.collect(grid).items()}
    for node in (0, 1, 3):  # each takes over the weight of the missing neighbour, 1/4
        masses = np.array([1.0, 2.0, 0.0, 4.0])
        masses[node] *= 2
        np.testing.assert_allclose(held[node], np.average(starts(4), axis=0, weights=masses))
    assert [node for _, node, _ in failed] == [2]
    assert "'num-examples' must be a finite number >= 0; got" in failed[0][2]


def test_nodes_without_examples_send_nothing():
    strategy = DLoRA("complete", weighted_mixing=True, weighted_by_key="rows", evaluate_every=0)
    grid = LocalGrid(app, 3)
    result = strategy.start(grid, ArrayRecord(START), num_rounds=1)
    size = START["x"].nbytes
    # Nodes 1 and 2, of 2 and 4 rows, send to two neighbours each; node 0 has no rows.
    assert result.train_metrics_clientapp[1]["bytes-sent"] == pytest.approx(2 * size)
    np.testing.assert_allclose(strategy.collect(grid)[0]["x"], fedavg(3, [0, 2, 4]), atol=1e-12)


def test_robust_rules_refuse_it():
    with pytest.raises(ValueError, match=r"weighted-mixing must be false with a robust rule"):
        DLoRA("complete", weighted_mixing=True, robust="clipping")


def test_a_missing_metric_is_named():
    with pytest.raises(ValueError, match=r"every reply must report 'size', by which nodes"):
        held_after(DLoRA(**BASE, weighted_mixing=True, weighted_by_key="size"), 3)


def test_relay_sum_refuses_it():
    with pytest.raises(ValueError, match=r"weighted-mixing must be false with relay-sum"):
        RelaySum(weighted_mixing=True)


BY_EXAMPLES = "metropolis-examples"


def rows_by_examples(w, masses):
    rows = w * np.minimum(1, masses / masses[:, None])
    np.fill_diagonal(rows, 0)
    return rows + np.diag(1 - rows.sum(axis=1))


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_metropolis_by_examples_preserves_the_weighted_sum(n):
    counts = np.arange(1.0, n + 1)
    held = held_after(DLoRA("ring", weights=BY_EXAMPLES), n, rounds=2)
    rows = rows_by_examples(build_mixing_matrix("ring", n), counts)
    np.testing.assert_allclose(held, rows @ rows @ starts(n), atol=1e-12)
    np.testing.assert_allclose(counts @ held, counts @ starts(n))


def test_metropolis_by_examples_preserves_it_with_rounded_posts_and_a_missing_node():
    n, counts = 5, np.arange(1.0, 6.0)
    strategy = DLoRA("exponential", weights=BY_EXAMPLES, posts="int8", participation=[[0, 1, 2, 4]])
    held = held_after(strategy, n)
    present = [0, 1, 2, 4]
    np.testing.assert_allclose(
        counts[present] @ held[present], counts[present] @ starts(n)[present]
    )
    assert not np.allclose(held[present], starts(n)[present], rtol=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weighted_mixing": True}, "weighted-mixing must be false with topology.weights"),
        ({"robust": "clipping"}, "topology.weights must not be metropolis-examples with a robust"),
        ({"dynamic": "base"}, "topology.weights must be auto with topology.dynamic = base"),
    ],
)
def test_metropolis_by_examples_is_refused_where_it_does_not_apply(options, message):
    with pytest.raises(ValueError, match=message):
        DLoRA("complete", weights=BY_EXAMPLES, **options)
