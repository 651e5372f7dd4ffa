"""What nodes hold, post and report on networks without failures."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies import DLoRA
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from flwr_decaf.topology.network import build_time_varying_network
from tests.apps.pure_mixing import (
    app,
    evaluate_held_value,
    make_app,
    train_identity,
)
from tests.local_grid import LocalGrid
from tests.strategies.pure_runs import START, held_after, starts


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("topology", ["ring", "complete", "star"])
def test_pure_mixing_is_a_power_of_w(topology, n):  # invariant 9
    w = build_mixing_matrix(topology, n)
    held = held_after(DLoRA(topology), n, rounds=4)
    np.testing.assert_allclose(held, np.linalg.matrix_power(w, 4) @ starts(n), atol=1e-14)


def test_graphs_and_matrices_of_your_own():
    for network in (nx.path_graph(3), build_mixing_matrix("path", 3)):
        held = held_after(DLoRA(network), 3, rounds=1)
        np.testing.assert_allclose(held, build_mixing_matrix("path", 3) @ starts(3), atol=1e-14)


@pytest.mark.parametrize("dynamic", ["edge-activation", "random-matching", "token-walk"])
def test_graphs_that_change_mix_by_the_matrix_of_each_round(dynamic):
    n, rounds = 6, 5
    network = build_time_varying_network("complete", n, seed=4, dynamic=dynamic)
    expected = starts(n)
    for t in range(1, rounds + 1):
        expected = network.of_round(t) @ expected
    strategy = DLoRA("complete", seed=4, dynamic=dynamic, evaluate_every=2)
    np.testing.assert_allclose(held_after(strategy, n, rounds), expected, atol=1e-14)


def test_bytes_are_counted_from_the_edges_of_the_round():
    sent = []
    strategy = DLoRA(
        "complete",
        dynamic="token-walk",
        train_metrics_aggr_fn=lambda contents, key: (
            sent.append([next(iter(c.metric_records.values()))["bytes-sent"] for c in contents])
            or MetricRecord()
        ),
    )
    held_after(strategy, 4, rounds=3)
    assert [sorted(row) for row in sent] == [[0, 0, 16, 16]] * 3  # one edge, two fp64 values


def test_mail_is_delivered_once_and_with_the_next_message_of_any_kind():
    grid = LocalGrid(app, 3)
    held_after(DLoRA("ring", evaluate_every=2), 3, rounds=3, grid=grid)
    with_posts = ["decaf.posts" in content for content in grid.mail_to(0) if "config" in content]
    # train 1, train 2 (mail of 1), evaluate 2 (of 2), train 3, evaluate 3, collect
    assert with_posts == [False, True, True, False, True, False]


def test_configuration_of_the_user_reaches_the_nodes():
    grid = LocalGrid(app, 2)
    held_after(DLoRA("ring"), 2, rounds=1, grid=grid, train_config=ConfigRecord({"lr": 0.1}))
    sent = next(content["config"] for content in grid.mail_to(0) if "config" in content)
    assert (sent["lr"], sent["server-round"], sent["trainable-factors"]) == (0.1, 1, "AB")


def test_metrics_say_how_far_apart_the_nodes_are():
    grid = LocalGrid(make_app(peer_mixing), 2)
    seen = []

    def record(contents, key):
        seen.extend(next(iter(c.metric_records.values()))["distance-to-mean"] for c in contents)
        return MetricRecord()

    held_after(DLoRA("ring", train_metrics_aggr_fn=record), 2, rounds=2, grid=grid)
    distance = float(np.linalg.norm(starts(2)[0] - starts(2)[1]) / 2)
    assert seen == pytest.approx([distance, distance, 0.0, 0.0], abs=1e-7)


@pytest.mark.parametrize("every", [0, 2])
def test_distances_and_interference_are_not_measured_where_nothing_is_evaluated(every):
    reported = []

    def record(contents, key):
        reported.extend(set(next(iter(c.metric_records.values()))) for c in contents)
        return MetricRecord()

    strategy = DLoRA("ring", evaluate_every=every, train_metrics_aggr_fn=record)
    held_after(strategy, 3, rounds=3, grid=LocalGrid(make_app(peer_mixing), 3))
    assert len(reported) == 9
    assert all({"bytes-sent", "mixing-seconds"} <= names for names in reported)
    measured = {"distance-to-mean", "mixing-interference"}
    assert all(names & measured == (measured if every else set()) for names in reported)


def test_nodes_that_come_and_go_keep_the_mean_and_are_no_failures():
    reported = []
    strategy = DLoRA(
        "complete",
        drop_probability=0.6,
        max_failures=0,
        on_failure=lambda *what: reported.append(what),
    )
    n, grid = 6, LocalGrid(app, 6)
    strategy.start(grid, ArrayRecord(START), num_rounds=1)
    trained = [m for m in grid.sent if m.metadata.message_type == "train" and "config" in m.content]
    assert 1 <= len(trained) < n
    assert not reported


@pytest.mark.parametrize("name", ["x", "confusion"])
def test_arrays_that_an_evaluation_returns_are_not_the_model(name):
    def evaluate(msg, context):
        reply = evaluate_held_value(msg, context)
        reply.content["more"] = ArrayRecord({name: torch.full((2,), 9.0, dtype=torch.float64)})
        return reply

    app = ClientApp(mods=[peer_mixing])
    app.train()(train_identity)
    app.evaluate()(evaluate)
    n, grid = 4, LocalGrid(app, 4)
    held = held_after(DLoRA("ring"), n, 3, grid)
    expected = np.linalg.matrix_power(build_mixing_matrix("ring", n), 3) @ starts(n)
    np.testing.assert_allclose(held, expected, atol=1e-12)
