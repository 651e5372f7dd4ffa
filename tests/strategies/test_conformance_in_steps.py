"""What every decentralized strategy must satisfy with several exchanges in each round."""

from __future__ import annotations

from functools import cache

import pytest

from tests.strategies.conformance import CASES, equal, reported, run

BASE_OF_3 = {"dynamic": "base", "topology_options": {"peers": 1}}  # its period is 3


def run_in_steps(name, **options):
    graph = {
        "local-only": {},
        "relay-sum": {"mixing_steps": 3},  # on its own tree, and in fp32 alone
    }.get(name, BASE_OF_3 | {"mixing_steps": "period", "posts": "int8"})
    return run(name, n=3, **options, options=graph)


@cache
def plain(name):
    """Run a strategy once for all tests that only read what comes out, and its checkpoints."""
    kept = {}
    keep = lambda reached: kept.update({reached.server_round: reached})  # noqa: E731
    return *run_in_steps(name, on_round=keep), kept


@pytest.mark.parametrize("name", CASES)
class TestEveryStrategy:
    def test_users_functions_run_once_a_round(self, name):
        grid = plain(name)[2]
        asked = [m.content["decaf.call"]["ask"] for m in grid.sent if "decaf.call" in m.content]
        mixes = 3 * (3 - 1) * 3  # three rounds of three steps, three nodes
        assert asked.count("mix") == (0 if name == "local-only" else mixes)

    def test_evaluating_does_not_change_what_nodes_hold(self, name):
        held = plain(name)[1]
        for every in (2, 0):
            other = run_in_steps(name, evaluate_every=every)[1]
            assert all(equal(held[i], other[i]) for i in held)

    @pytest.mark.parametrize("stop", [1, 2])
    def test_a_resumed_run_gives_the_result_of_an_uninterrupted_one(self, name, stop):
        once, whole, _, kept = plain(name)
        again, resumed, _ = run_in_steps(name, resume_from=kept[stop])
        assert all(equal(whole[node], resumed[node]) for node in whole)
        for t, record in again.train_metrics_clientapp.items():
            assert reported(record) == reported(once.train_metrics_clientapp[t])
