"""Nodes whose calls fail, and nodes that are gone."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies import DLoRA
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from tests.apps.pure_mixing import (
    app,
    train_identity,
)
from tests.dense_rows import without_nodes
from tests.local_grid import LocalGrid
from tests.strategies.pure_runs import START, disturb, held_after, is_round, starts


def test_a_node_that_fails_for_a_round_keeps_w_doubly_stochastic_and_comes_back():
    n, w = 5, build_mixing_matrix("ring", 5)
    grid = LocalGrid(app, n)
    strategy = DLoRA("ring", evaluate_every=0)
    disturb(strategy, grid, {3: {2}})  # in round 3, node 2 fails
    held = held_after(strategy, n, rounds=4, grid=grid)
    # Node 2 takes its mail of round 2 when it is back, in round 4.
    expected = w @ without_nodes(w, {2}) @ w @ w @ starts(n)
    np.testing.assert_allclose(held, expected, atol=1e-14)
    np.testing.assert_allclose(held.mean(axis=0), starts(n).mean(axis=0))


def test_a_node_that_is_gone_is_not_named_by_the_superlink(caplog):
    grid = LocalGrid(app, 3)
    strategy = DLoRA("ring", evaluate_every=0)
    disturb(strategy, grid, {2: {1}}, how="gone")
    held = held_after(strategy, 3, rounds=3, grid=grid)
    np.testing.assert_allclose(held.mean(axis=0), starts(3).mean(axis=0))
    assert "Round 2: node 1 failed: node unavailable" in caplog.text


def test_a_node_that_misses_its_start_gets_it_later():
    grid = LocalGrid(app, 3)
    strategy = DLoRA("complete", evaluate_every=0)
    disturb(strategy, grid, {1: {0}})
    held = held_after(strategy, 3, rounds=2, grid=grid)
    first = starts(3)
    pair = first[1:].mean(axis=0)  # round 1: two thirds and one third, then all three mix
    mixed = [2 / 3 * first[1] + 1 / 3 * first[2], 2 / 3 * first[2] + 1 / 3 * first[1]]
    assert np.allclose(sum(mixed) / 2, pair)
    np.testing.assert_allclose(held, np.tile(sum(mixed) / 3, (3, 1)), atol=1e-14)


def test_too_many_failures_stop_the_run_with_the_first_cause():
    grid = LocalGrid(app, 4)
    strategy = DLoRA("ring", max_failures=1)
    disturb(strategy, grid, {1: {1, 3}})
    with pytest.raises(
        RuntimeError, match=r"round 1: 2 of 4 nodes failed.*node 1: RuntimeError: broken on p"
    ):
        held_after(strategy, 4, rounds=2, grid=grid)


@pytest.mark.parametrize(("retries", "failed"), [(0, [(2, 1, "broken on purpose")]), (1, [])])
def test_a_node_that_fails_once_is_asked_again(retries, failed):
    grid, reported = LocalGrid(app, 3), []
    strategy = DLoRA(
        "ring", evaluate_every=0, retries=retries, on_failure=lambda *what: reported.append(what)
    )
    disturb(strategy, grid, {2: {1}})
    send = grid.send_and_receive

    def send_and_recover(*args, **options):
        replies = send(*args, **options)
        grid.broken = set()
        return replies

    grid.send_and_receive = send_and_recover
    held_after(strategy, 3, rounds=3, grid=grid)
    assert [(t, node, cause.split("'")[0].split(": ")[-1]) for t, node, cause in reported] == failed


@pytest.mark.parametrize("retries", [0, 1])
def test_a_call_that_fails_does_not_mix_mail_twice_where_its_state_is_kept(retries):
    n, w, failed = 5, build_mixing_matrix("ring", 5), []

    def train(msg, context):
        if is_round(msg, 3) and context.node_config["partition-id"] == 2 and not failed:
            failed.append(3)
            raise ValueError("once")
        return train_identity(msg, context)

    client = ClientApp(mods=[peer_mixing])
    client.train()(train)
    grid = LocalGrid(client, n)
    grid.keeps_state_of_failed_calls = True
    held = held_after(DLoRA("ring", evaluate_every=0, retries=retries), n, rounds=4, grid=grid)
    third = w if retries else without_nodes(w, {2})
    np.testing.assert_allclose(held, w @ third @ w @ w @ starts(n), atol=1e-14)


def test_a_failure_that_repeats_is_reported_once_and_counted_at_the_end(caplog):
    grid, missing = LocalGrid(app, 3), []
    strategy = DLoRA("ring", evaluate_every=0, on_failure=lambda *what: missing.append(what[:2]))
    disturb(strategy, grid, {t: {1} for t in range(1, 5)})
    strategy.start(grid, ArrayRecord(START), num_rounds=4)
    assert [record.message for record in caplog.records if "failed" in record.message] == [
        "Round 1: node 1 failed: RuntimeError: broken on purpose",
        "Node 1 failed 4 times: RuntimeError",
    ]
    assert missing == [(t, 1) for t in range(1, 5)]
