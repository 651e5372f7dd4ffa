"""Asynchronous rounds of DLoRA on nodes that mix and do not train, against values by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.clients.own_store import POSTS_STORE
from flwr_decaf.config import Posts, Rounds
from flwr_decaf.strategies import DLoRA
from tests.apps.pure_mixing import app, evaluate_held_value, train_identity
from tests.local_grid import LocalGrid
from tests.strategies.pure_runs import START, starts


def grid_of(*seconds, **options):
    """Return a grid of nodes whose trainings take these times; all else takes no time."""
    grid = LocalGrid(app, len(seconds), **options)
    grid.duration = lambda message: (
        seconds[grid.place_of(message)] if message.metadata.message_type == "train" else 0.0
    )
    return grid


def held_after(grid, rounds, topology="complete", mode=None, **options):
    """Return what the nodes hold at the end, and the rows of training and evaluation."""
    rows = {"train": [], "evaluate": []}

    def recorder(phase):
        def note(contents, weighted_by_key):
            rows[phase].extend({**next(iter(c.metric_records.values()))} for c in contents)
            return MetricRecord({"replies": len(contents)})

        return note

    strategy = DLoRA(
        topology,
        rounds=mode or Rounds("asynchronous"),
        train_metrics_aggr_fn=recorder("train"),
        evaluate_metrics_aggr_fn=recorder("evaluate"),
        **{"evaluate_every": 0, **options},
    )
    result = strategy.start(grid, ArrayRecord(START), num_rounds=rounds, timeout=0.3)
    held = np.stack([state["x"] for state in strategy.collect(grid).values()])
    return held, rows, result


def trained(grid, place):
    """Return the rounds for which a node was asked to train."""
    contents = [m.content for m in grid.sent if m.metadata.message_type == "train"]
    own = [c for c in grid.mail_to(place) if any(c is other for other in contents)]
    return [c["config"]["server-round"] for c in own if "decaf.call" not in c]


def test_nobody_waits_for_a_slow_node():
    # Node 0 trains at 1, 2, 3, 4; node 1 at 2.5 and 5. Until 2.5, node 0 knows no other post. Then
    # both mix (0 + 1) / 2 once, node 1 at 2.5 and node 0 at 3, and at the end once more.
    grid = grid_of(1, 2.5)
    held, _, result = held_after(grid, 4)
    assert (trained(grid, 0), trained(grid, 1)) == ([1, 2, 3, 4], [1, 2])
    np.testing.assert_allclose(held, np.full((2, 2), 0.5))
    np.testing.assert_allclose(result.arrays.to_torch_state_dict()["x"], [0.5, 0.5])


@pytest.mark.parametrize(("largest", "neighbours"), [(0, [0, 1]), (2, [0, 1]), (1, [0])])
def test_nodes_whose_rounds_are_too_far_apart_do_not_exchange_posts(largest, neighbours):
    # Node 1 posts at 3.5, when node 0 has completed round 3.
    mode = Rounds("asynchronous", max_staleness=largest)
    _, rows, _ = held_after(grid_of(1, 3.5), 5, mode=mode)
    assert sorted({row["mixing-neighbours"] for row in rows["train"]}) == neighbours


def test_the_mean_is_preserved_while_nodes_train():
    # Every training adds 1 to the model of its node, and so 1 / n to the mean, whoever is faster.
    seconds = (1, 1.3, 4.1)
    grid = grid_of(*seconds)
    grid.app = adding
    held, rows, _ = held_after(grid, 40, topology="ring")
    trainings = len(rows["train"])
    assert held.mean() == pytest.approx(trainings / 3, rel=1e-12)
    assert np.ptp(held) < 1e-9


def test_a_run_may_wait_for_all_nodes():
    grid = grid_of(1, 2.5)
    held_after(grid, 4, mode=Rounds("asynchronous", finished_share=1.0))
    assert (trained(grid, 0), trained(grid, 1)) == ([1, 2, 3, 4], [1, 2, 3, 4])


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_equally_fast_nodes_mix_by_powers_of_w(n):
    grid = grid_of(*[1] * n)
    strategy = DLoRA("ring", rounds="asynchronous", evaluate_every=2)
    strategy.start(grid, ArrayRecord(START), num_rounds=4)
    held = np.stack([state["x"] for state in strategy.collect(grid).values()])
    w = strategy.network.base
    np.testing.assert_allclose(held, np.linalg.matrix_power(w, 4) @ starts(n), atol=1e-14)


def test_nodes_are_evaluated_in_their_own_rounds_and_all_after_the_last():
    grid = grid_of(1, 1, 3)
    held, rows, result = held_after(grid, 6, topology="ring", evaluate_every=2)
    asked = [
        (message.content["config"]["server-round"], grid.place_of(message))
        for message in grid.sent
        if message.metadata.message_type == "evaluate" and "config" in message.content
    ]
    # Node 2 has trained twice when the others have trained six times.
    expected = [(2, 0), (2, 1), (2, 2), (4, 0), (4, 1), (6, 0), (6, 1), (6, 2)]
    assert sorted(asked) == expected
    np.testing.assert_allclose([row["held"] for row in rows["evaluate"][-3:]], held)
    assert sorted(result.evaluate_metrics_clientapp) == [2, 4, 6]


def test_a_node_that_was_evaluated_last_gets_back_what_it_posted():
    # Node 2 is evaluated after its first round, at 3.5, and never posts again: at 4, the others are
    # done, and it trains until 7. In the second case, it has just been evaluated when they are.
    for seconds, rounds in ((3.5, 4), (4.0, 4)):
        grid = grid_of(1, 1, seconds)
        held, *_ = held_after(grid, rounds, evaluate_every=1)
        assert np.ptp(held, axis=0).max() < 1e-12  # all mixed the same posts by 1/3


def test_metrics_say_how_stale_posts_are_and_how_far_apart_the_nodes():
    _, rows, result = held_after(grid_of(1, 2.5), 4, evaluate_every=4)
    told = [(row["staleness"], row["rounds-behind"], row["bytes-sent"]) for row in rows["train"]]
    # Node 0 at 1 and 2, node 1 at 2.5, node 0 at 3 and 4, node 1 at 5. What both exchange at 2.5,
    # node 0 mixes at 3.
    assert told == [(0, 0, 0), (0, 0, 0), (0, -1, 16), (1, 2, 16), (0, 0, 0), (0, -2, 16)]
    measured = ["distance-to-mean" in row for row in rows["train"]]
    assert measured == [False, False, False, False, True, False]
    assert result.train_metrics_clientapp[1] == MetricRecord({"replies": 1.0})


def train_and_count(msg, context):
    reply = train_identity(msg, context)
    reply.content["metrics"]["num-examples"] = 1 + 2 * int(context.node_config["partition-id"])
    return reply


def train_and_add(msg, context):
    x = msg.content["arrays"].to_torch_state_dict()["x"] + 1
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": ArrayRecord({"x": x}), "metrics": metrics}), reply_to=msg)


adding = ClientApp(mods=[peer_mixing])
adding.train()(train_and_add)
counting = ClientApp(mods=[peer_mixing])
counting.train()(train_and_count)
counting.evaluate()(evaluate_held_value)


def on_call(grid, do):
    """Call a function with the number of each message that is pushed, from 1."""
    duration, numbers = grid.duration, itertools.count(1)

    def called(message):
        seconds = duration(message)
        do(next(numbers))
        return seconds

    grid.duration = called


def test_a_node_that_fails_is_called_again_when_others_have_got_on(caplog):
    grid = grid_of(1, 1, 1)
    on_call(grid, lambda number: setattr(grid, "broken", {2} if grid.now < 2 else set()))
    held, *_ = held_after(grid, 6, retries=1)
    # It fails at 1 and at 2, when the others complete round 2, so that it is called for its next.
    assert trained(grid, 2) == [1, 1, 2, 3, 4, 5]
    assert trained(grid, 0) == [1, 2, 3, 4, 5, 6]
    assert len(held) == 3
    assert "Round 1: node 2 failed: RuntimeError: broken on purpose" in caplog.text


@pytest.mark.parametrize(
    ("n", "broken", "most", "cause"),
    [
        (4, {1, 3}, 1, "round 1: 2 of 4 nodes failed, more than the 1"),
        (2, {0, 1}, 2, "round 1: 2 of 2 nodes failed, all of those called"),
    ],
)
def test_too_many_failures_stop_a_run(n, broken, most, cause):
    grid = grid_of(*[1] * n)
    on_call(grid, lambda number: setattr(grid, "broken", broken))
    with pytest.raises(RuntimeError, match=cause):
        held_after(grid, 3, max_failures=most)


def test_a_node_that_does_not_answer_holds_up_nobody():
    grid = grid_of(1, 1, 1)
    on_call(grid, lambda number: setattr(grid, "late", {2: 100}))
    held, *_ = held_after(grid, 3)
    alone = np.array([[2 / 3, 1 / 3], [1 / 3, 2 / 3]])  # what 2 does not send stays with both
    np.testing.assert_allclose(held[:2], np.linalg.matrix_power(alone, 3) @ starts(2))


def test_a_node_that_lost_its_state_gets_its_last_post_and_its_mail():
    grid = grid_of(1, 1)
    fresh = LocalGrid(app, 2).contexts[grid.ids[1]]
    on_call(grid, lambda number: number == 3 and grid.contexts.update({grid.ids[1]: fresh}))
    held, *_ = held_after(grid, 3)  # the third message is the first of round 2
    assert trained(grid, 1) == [1, 2, 2]  # of round 2, the first message finds no state
    np.testing.assert_allclose(held, np.full((2, 2), 0.5))


def test_a_node_that_is_restarted_gets_its_place_back(caplog):
    grid = grid_of(1, 1, 1)

    def restart(number):
        if number == 5:  # the message of round 2 for node 1
            grid.leave(1)
            grid.join(1)

    on_call(grid, restart)
    held, *_ = held_after(grid, 6)
    assert "Node 1 is back under a new node id" in caplog.text
    np.testing.assert_allclose(held, np.full((3, 2), [1, 5 / 3]))  # the mean of all


def test_weighted_mixing_weights_the_posts_that_have_arrived():
    grid = grid_of(1, 2.5)
    grid.app = counting
    # Both rows are 1/4, 3/4: at 2.5 and at 3, both nodes hold 3/4.
    held, *_ = held_after(grid, 4, weighted_mixing=True)
    np.testing.assert_allclose(held, np.full((2, 2), 0.75))
    # The rows are 1/2, 1/2 and 1/6, 5/6: node 1 holds 5/6 at 2.5, and node 0 1/2 at 3. They
    # exchange these at 5, after which they hold 7/9 and 2/3, and mix once more.
    held, *_ = held_after(grid, 4, weights="metropolis-examples")
    np.testing.assert_allclose(held[:, 0], [(2 / 3 + 7 / 9) / 2, 2 / 3 / 6 + 5 / 6 * 7 / 9])


def test_posts_travel_through_a_store(tmp_path):
    def node_config(place):
        return {"partition-id": place, "num-partitions": 2, POSTS_STORE: str(tmp_path)}

    grid = grid_of(1, 2.5, node_config=node_config)
    held, *_ = held_after(grid, 4, posts=Posts(store=str(tmp_path)))
    np.testing.assert_allclose(held, np.full((2, 2), 0.5))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
