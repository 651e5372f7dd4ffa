"""Nodes whose replies are late, and nodes that restart and have lost their state."""

from __future__ import annotations

import random

import numpy as np
import pytest
from flwr.app import MetricRecord

from flwr_decaf.strategies import DLoRA
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from tests.apps.pure_mixing import app
from tests.dense_rows import without_nodes
from tests.local_grid import LocalGrid
from tests.strategies.pure_runs import held_after, named_client, starts


def forget(grid, place):
    """What the restart of a SuperNode does: its Context is new."""
    grid.contexts[grid.ids[place]].state.clear()


@pytest.mark.parametrize("kind", ["same id", "new id"])
@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("retries", [0, 1])
def test_a_restarted_node_gets_back_what_it_had_posted(kind, every, retries):
    n, w, grid = 5, build_mixing_matrix("ring", 5), LocalGrid(app, 5)
    strategy = DLoRA("ring", evaluate_every=every, retries=retries)
    configure = strategy.configure_train

    def configure_and_restart(server_round, *rest):
        if server_round == 3:
            forget(grid, 2)
            if kind == "new id":
                old = grid.ids[2]
                grid.ids[2] = 4711
                grid.contexts[4711] = grid.contexts.pop(old)
        return configure(server_round, *rest)

    strategy.configure_train = configure_and_restart
    held = held_after(strategy, n, rounds=4, grid=grid)
    expected = np.linalg.matrix_power(w, 4) @ starts(n)
    np.testing.assert_allclose(held, expected, atol=1e-14)


def held_and_mixed(strategy, grid, n, rounds, disturb):
    """Run with disturbances; compare with mixing by W without those that are missing in a round."""
    w, present, configure = build_mixing_matrix("ring", n), [], strategy.configure_train

    def configure_and_disturb(server_round, *rest):
        disturb(server_round)
        return configure(server_round, *rest)

    def record(contents, key):
        present.append({content["metrics"]["partition-id"] for content in contents})
        return MetricRecord()

    strategy.configure_train, strategy.train_metrics_aggr_fn = configure_and_disturb, record
    held, expected = held_after(strategy, n, rounds, grid), starts(n)
    absent = [set(range(n)) - nodes for nodes in present]
    for missing in absent:
        expected = without_nodes(w, missing) @ expected
    np.testing.assert_allclose(held, expected, atol=1e-13)
    return absent


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_node_whose_reply_is_late_counts_as_missing(after, every, retries):
    """The node has mixed and trained, and what it holds is written back sooner or later."""
    n, grid = 5, LocalGrid(named_client(), 5)
    strategy = DLoRA("ring", evaluate_every=every, retries=retries)

    def delay(server_round):
        grid.late = {2: after} if server_round == 3 else {}

    absent = held_and_mixed(strategy, grid, n, 6, delay)
    assert absent == [set(), set(), {2}, set(), set(), set()]


def test_a_late_call_of_a_run_does_not_reach_into_the_next_one():
    n, grid = 4, LocalGrid(named_client(), 4)

    def delay(server_round):
        grid.late = {1: 4} if server_round == 2 else {}

    held_and_mixed(DLoRA("ring", evaluate_every=0), grid, n, 2, delay)
    assert not any(held_and_mixed(DLoRA("ring", evaluate_every=0), grid, n, 5, lambda t: None))


@pytest.mark.parametrize("seed", range(12))
def test_whatever_fails_is_late_or_restarts_the_nodes_present_mix_as_w_says(seed):
    n, rounds, draw = 6, 9, random.Random(seed)
    grid = LocalGrid(named_client(), n)
    grid.keeps_state_of_failed_calls = bool(seed % 2)
    strategy = DLoRA("ring", evaluate_every=seed % 3, retries=seed % 2, max_failures=n)

    def disturb(server_round):
        grid.broken, grid.late = set(), {}
        if 1 < server_round < rounds - 1:
            grid.broken = {draw.randrange(n - 1)}
            grid.late = {draw.randrange(n - 1): draw.randrange(4)}
            if draw.random() < 0.3:
                forget(grid, draw.randrange(n - 1))

    absent = held_and_mixed(strategy, grid, n, rounds, disturb)
    assert sum(map(len, absent)) >= 5
