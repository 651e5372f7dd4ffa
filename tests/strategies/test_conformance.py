"""What every decentralized strategy must satisfy, with exact posts and synchronous rounds."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from flwr.app import MetricRecord

from flwr_decaf.strategies import DecentralizedStrategy
from flwr_decaf.topology.participation import draw_evaluated
from tests.local_grid import LocalGrid
from tests.strategies.conformance import (
    CASES,
    DEGREES,
    KINDS,
    POSTED_TIMES,
    SHAPES,
    WEIGHTS,
    app_of,
    equal,
    evaluated_nodes,
    first_ranks,
    initial,
    plain,
    run,
)


def test_every_decentralized_strategy_has_a_row():
    assert set(CASES) == {
        name for name, kind in KINDS.items() if issubclass(kind, DecentralizedStrategy)
    }


@pytest.mark.parametrize("name", CASES)
class TestEveryStrategy:
    def test_evaluating_does_not_change_what_nodes_hold(self, name):
        held = plain(name)[1]
        others = [run(name, evaluate_every=every)[1] for every in (2, 0)]
        for other in (*others, plain(name, fraction=0.5)[1]):
            assert all(equal(held[node], other[node]) for node in held)

    def test_a_share_of_the_nodes_is_evaluated_and_all_in_the_last_round(self, name):
        drawn = evaluated_nodes(plain(name, fraction=0.5)[2])
        share = {t: set(draw_evaluated(t, range(4), 0.5, 3, 0)) for t in (1, 2)}
        assert {len(nodes) for nodes in share.values()} == {2}
        assert share[1] != share[2]
        assert {t: drawn[t] for t in range(1, 4)} == share | {3: {0, 1, 2, 3}}

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_small_networks(self, name, n):
        result, held, *_ = plain(name, n=n)
        assert sorted(held) == list(range(n))
        assert all(torch.isfinite(x).all() for state in held.values() for x in state.values())
        assert list(result.arrays) == list(initial())

    def test_bytes_are_degree_times_what_travels(self, name):  # invariant 11
        result, *_ = plain(name)
        factors, degree = CASES[name][1], DEGREES.get(name, 2)
        width, head = 8, 4 * 6

        def size_of_post(node):
            sides = {"AB": sum, "B": lambda shape: shape[0], "": lambda shape: 0}[factors]
            ranks = first_ranks(name, node)
            return sum(ranks[layer] * sides(shape) for layer, shape in SHAPES.items()) + head

        size = np.average([size_of_post(node) for node in range(4)], weights=WEIGHTS)
        expected = degree * size * width * POSTED_TIMES.get(name, 1)
        assert result.train_metrics_clientapp[1]["bytes-sent"] == pytest.approx(expected)

    def test_the_result_is_the_average_model_and_no_node_gets_it(self, name):
        seen = {}
        result, _, grid = run(
            name, evaluate_fn=lambda t, arrays: seen.update({t: arrays}) or MetricRecord({"t": t})
        )
        assert sorted(seen) == [0, 1, 2, 3]
        assert equal(seen[3].to_torch_state_dict(), result.arrays.to_torch_state_dict())
        with_arrays = [m.content for m in grid.sent if "arrays" in m.content]
        assert len(with_arrays) == 4  # the initial ones, once a node

    def test_two_runs_on_the_same_nodes_do_not_leak(self, name):
        _, first, grid, _ = plain(name)
        again = LocalGrid(app_of(name), 4)
        again.contexts = copy.deepcopy(grid.contexts)
        assert all(context.state for context in again.contexts.values())
        _, second, _ = run(name, grid=again)
        assert all(equal(first[node], second[node]) for node in first)
