from __future__ import annotations

from functools import partial

import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord

from flwr_decaf.strategies import STRATEGIES
from flwr_decaf.topology.participation import draw_evaluated
from tests.local_grid import LocalGrid
from tests.states import lora_state
from tests.strategies.conformance import app_of, equal, evaluated_nodes, run, train_told
from tests.strategies.pure_runs import disturb


@pytest.mark.parametrize(("broken", "tolerated"), [({1, 2, 3}, None), ({1}, 0), ({0, 1, 2, 3}, 4)])
def test_fedavg_stops_when_too_many_fail(broken, tolerated):
    app, reported = app_of("fedavg"), []
    grid = LocalGrid(app, 4)
    grid.broken = broken
    strategy = STRATEGIES["fedavg"](
        evaluate_every=0,
        num_rounds=2,
        max_failures=tolerated,
        on_failure=lambda *what: reported.append(what),
    )
    both = ConfigRecord({"trainable-factors": "AB"})
    with pytest.raises(RuntimeError, match=rf"round 1: {len(broken)} of 4 nodes failed"):
        strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=2, train_config=both)
    assert len(reported) == len(broken)


def test_fedavg_evaluates_the_share_that_peers_evaluate():
    app = app_of("fedavg", train_told)
    grid = LocalGrid(app, 4)
    both = ConfigRecord({"trainable-factors": "AB"})
    strategy = STRATEGIES["fedavg"](evaluate_every=1, evaluate_fraction=0.5, num_rounds=4, seed=0)
    strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=4, train_config=both)
    of_peers = evaluated_nodes(run("dlora", rounds=4, fraction=0.5)[2])
    assert evaluated_nodes(grid) == of_peers


@pytest.mark.parametrize("name", ["dlora", "fedavg"])
def test_a_node_that_failed_in_training_may_be_the_only_one_evaluated(name):
    app = app_of("fedavg", train_told)
    grid = LocalGrid(app, 4)
    (drawn,) = draw_evaluated(1, range(4), 0.25, 2, 0)
    places = dict(zip(grid.ids, range(4), strict=True))
    own = {"num_rounds": 2, "positions": places} if name == "fedavg" else {"topology": "ring"}
    strategy = STRATEGIES[name](evaluate_every=1, evaluate_fraction=0.25, max_failures=1, **own)
    configure = {kind: getattr(strategy, f"configure_{kind}") for kind in ("train", "evaluate")}

    def configure_and_break(kind, server_round, *rest):
        grid.broken = {drawn} if (kind, server_round) == ("train", 1) else set()
        return configure[kind](server_round, *rest)

    strategy.configure_train = partial(configure_and_break, "train")
    strategy.configure_evaluate = partial(configure_and_break, "evaluate")
    both = ConfigRecord({"trainable-factors": "AB"})
    result = strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=2, train_config=both)
    assert set(result.evaluate_metrics_clientapp) == {1, 2}


@pytest.mark.parametrize("absent", ["gone", "late"])
def test_fedavg_counts_nodes_that_do_not_reply(absent):
    app = app_of("fedavg", train_told)
    grid = LocalGrid(app, 5)
    if absent == "gone":
        grid.gone = {1, 2}  # the SuperLink replies for both under one foreign id
    else:
        grid.late = {1: 99, 2: 99}
    strategy = STRATEGIES["fedavg"](evaluate_every=1, num_rounds=2, max_failures=1)
    both = ConfigRecord({"trainable-factors": "AB"})
    with pytest.raises(RuntimeError, match="round 1: 2 of 5 nodes failed, more than the 1"):
        strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=2, train_config=both)


def test_fedavg_names_a_node_by_its_position_as_soon_as_it_is_known():
    reported, both = [], ConfigRecord({"trainable-factors": "AB"})
    app = app_of("fedavg", train_told)
    for known in (False, True):
        grid = LocalGrid(app, 5)
        grid.broken = {3}
        strategy = STRATEGIES["fedavg"](
            evaluate_every=0,
            num_rounds=1,
            positions=dict(zip(grid.ids, range(5), strict=True)) if known else None,
            on_failure=lambda *what: reported.append(what[:2]),
        )
        strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=1, train_config=both)
    assert reported == [(1, grid.ids[3]), (1, 3)]


def test_fedavg_learns_positions_from_the_metrics_of_replies():
    reported, both = [], ConfigRecord({"trainable-factors": "AB"})
    app = app_of("fedavg", train_told)
    grid = LocalGrid(app, 5)
    strategy = STRATEGIES["fedavg"](
        evaluate_every=0, num_rounds=2, on_failure=lambda *what: reported.append(what[:2])
    )
    disturb(strategy, grid, {2: {3}})
    strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=2, train_config=both)
    assert reported == [(2, 3)]


class TestResumedFedAvg:
    def run(self, rounds, resume_from=None, **start):
        kept = {}
        app = app_of("fedavg", train_told)
        strategy = STRATEGIES["fedavg"](
            evaluate_every=1,
            num_rounds=rounds,
            resume_from=resume_from,
            on_round=lambda reached: kept.update({reached.server_round: reached}),
        )
        both = ConfigRecord({"trainable-factors": "AB"})
        arrays = ArrayRecord(lora_state(0))
        result = strategy.start(
            LocalGrid(app, 3), arrays, num_rounds=rounds, train_config=both, **start
        )
        return result, kept

    @pytest.mark.parametrize("stop", [1, 3, 4])
    def test_it_gives_the_result_of_an_uninterrupted_run_and_counts_its_rounds(self, stop):
        whole, kept = self.run(4)
        seen = []
        score = lambda t, arrays: seen.append(t) or MetricRecord({"t": t})  # noqa: E731
        again, rest = self.run(4, kept[stop], evaluate_fn=score)
        left = list(range(stop + 1, 5))
        assert equal(whole.arrays.to_torch_state_dict(), again.arrays.to_torch_state_dict())
        assert list(again.train_metrics_clientapp) == left
        assert list(again.evaluate_metrics_clientapp) == left
        assert seen == left == list(again.evaluate_metrics_serverapp)
        assert max(rest) == 4

    def test_fewer_rounds_than_are_done_are_refused_and_write_nothing(self):
        _, kept = self.run(3)
        with pytest.raises(ValueError, match="num_rounds must be at least .* 3; got 2; resume"):
            self.run(2, kept[3], evaluate_fn=lambda t, arrays: pytest.fail("it started"))
