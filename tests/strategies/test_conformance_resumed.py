"""What every decentralized strategy must satisfy when a run is resumed."""

from __future__ import annotations

import pytest

from tests.strategies.conformance import (
    CASES,
    equal,
    evaluated_nodes,
    plain,
    reported,
    run,
    stopped_after,
)


@pytest.mark.parametrize("name", CASES)
class TestEveryStrategy:
    @pytest.mark.parametrize("stop", [1, 2, 3])
    def test_a_resumed_run_gives_the_result_of_an_uninterrupted_one(self, name, stop):
        once, whole, _, kept = plain(name)
        assert sorted(kept) == [1, 2, 3]
        again, resumed, grid = run(name, resume_from=stopped_after(name, stop))
        assert all(equal(whole[node], resumed[node]) for node in whole)
        for metrics in ("train_metrics_clientapp", "evaluate_metrics_clientapp"):
            for t, record in getattr(again, metrics).items():
                assert reported(record) == reported(getattr(once, metrics)[t])
        rounds = [m.content["config"]["server-round"] for m in grid.sent if "config" in m.content]
        assert min(rounds) == min(stop + 1, 3)

    def test_resuming_evaluates_the_same_share(self, name):
        once, whole, grid, kept = plain(name, fraction=0.5)
        again, resumed, rest = run(name, fraction=0.5, resume_from=kept[1])
        assert all(equal(whole[node], resumed[node]) for node in whole)
        asked = evaluated_nodes(grid)
        assert list(evaluated_nodes(rest).values()) == [asked[t] for t in (2, 3)]
        for t, record in again.evaluate_metrics_clientapp.items():
            assert reported(record) == reported(once.evaluate_metrics_clientapp[t])
