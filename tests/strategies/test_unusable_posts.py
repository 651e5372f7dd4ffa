"""Posts that cannot be mixed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.messages import records
from flwr_decaf.messages.packing import pack_record, unpack_record
from flwr_decaf.strategies import DLoRA
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from tests.apps.pure_mixing import (
    app,
    train_identity,
)
from tests.dense_rows import without_nodes
from tests.local_grid import LocalGrid
from tests.strategies.pure_runs import START, held_after, is_round, starts


@pytest.mark.parametrize("harm", [lambda x: x * float("nan"), lambda x: x[:1]])
def test_a_node_whose_post_is_unusable_counts_as_missing(harm):
    """The relay drops the links on both sides, so that W stays doubly stochastic."""
    n, w, reported = 5, build_mixing_matrix("ring", 5), []
    grid = LocalGrid(app, n)
    strategy = DLoRA("ring", evaluate_every=0, on_failure=lambda *what: reported.append(what))
    configure, send, current = strategy.configure_train, grid.send_and_receive, [0]

    def configure_and_count(server_round, *rest):
        current[0] = server_round
        return configure(server_round, *rest)

    def send_and_harm(*args, **options):
        replies = list(send(*args, **options))
        for reply in replies if current[0] == 2 else []:
            if reply.metadata.src_node_id == grid.ids[3] and records.POST in reply.content:
                post = unpack_record(reply.content[records.POST])
                reply.content[records.POST] = pack_record({"x": harm(post["x"])})
        return replies

    strategy.configure_train, grid.send_and_receive = configure_and_count, send_and_harm
    held = held_after(strategy, n, rounds=3, grid=grid)
    np.testing.assert_allclose(held, w @ without_nodes(w, {3}) @ w @ starts(n), atol=1e-14)
    assert [(t, node) for t, node, _ in reported] == [(2, 3)]


def test_a_node_whose_post_was_not_finite_continues_from_its_last_finite_one():
    def train(msg, context):
        reply = train_identity(msg, context)
        if is_round(msg, 2) and context.node_config["partition-id"] == 2:
            reply.content["arrays"] = ArrayRecord({"x": torch.full((2,), float("nan")).double()})
        return reply

    n, w, reported = 5, build_mixing_matrix("ring", 5), []
    client = ClientApp(mods=[peer_mixing])
    client.train()(train)
    strategy = DLoRA("ring", evaluate_every=1, on_failure=lambda *what: reported.append(what[:2]))
    grid = LocalGrid(client, n)
    result = strategy.start(grid, ArrayRecord(START), num_rounds=3)
    held = np.stack([state["x"].numpy() for state in strategy.collect(grid).values()])
    np.testing.assert_allclose(held, w @ without_nodes(w, {2}) @ w @ starts(n), atol=1e-14)
    assert reported == [(2, 2)]
    # It counts as missing: the means are those of the other four, on their three edges.
    metrics = result.train_metrics_clientapp[2]
    assert metrics["bytes-sent"] == 16 * 3 * 2 / 4
    posted = np.delete(w @ starts(n), 2, axis=0)
    distances = np.linalg.norm(posted - posted.mean(axis=0), axis=1)
    assert metrics["distance-to-mean"] == pytest.approx(distances.mean())


def test_an_edge_between_an_outlier_and_its_neighbour_is_dropped_on_both_sides():
    # By the median of its neighbourhood node 1 would refuse node 2, and node 2 nobody.
    sizes, reported = [1.0, 30.0, 9e4, 2e3, 5e4, 3e-2], []
    n, w = len(sizes), build_mixing_matrix("ring", len(sizes))

    def train(msg, context):
        reply = train_identity(msg, context)
        if is_round(msg, 1):
            x = sizes[context.node_config["partition-id"]] * torch.tensor(
                [0.6, -0.8], dtype=torch.float64
            )
            reply.content["arrays"] = ArrayRecord({"x": x})
        return reply

    client = ClientApp(mods=[peer_mixing])
    client.train()(train)
    strategy = DLoRA("ring", evaluate_every=0, on_failure=lambda *what: reported.append(what))
    held = held_after(strategy, n, rounds=1, grid=LocalGrid(client, n))
    dropped = {(1, 2), (4, 5)}
    for i, j in dropped:
        w[i, j] = w[j, i] = 0
        w[i, i] += 1 / 3
        w[j, j] += 1 / 3
    np.testing.assert_allclose(w.sum(axis=0), 1)
    np.testing.assert_allclose(held, np.outer(w @ sizes, [0.6, -0.8]), rtol=1e-12)
    assert sorted(node for _, node, _ in reported) == [1, 2, 4, 5]
    assert "its norm is 9e+04 and the receiver's 30;" in str(reported)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_node_with_another_model_stops_the_run(retries):
    def train(msg, context):
        reply = train_identity(msg, context)
        if context.node_config["partition-id"] == 2:
            reply.content["arrays"] = ArrayRecord({"x": torch.zeros(3, dtype=torch.float64)})
        return reply

    client = ClientApp(mods=[peer_mixing])
    client.train()(train)
    strategy = DLoRA("ring", evaluate_every=0, retries=retries)
    with pytest.raises(
        RuntimeError, match=r"round 1: node 2 has a different model .* must be \(2,\)"
    ):
        held_after(strategy, 5, rounds=3, grid=LocalGrid(client, 5))
