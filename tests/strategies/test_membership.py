"""Nodes that join and leave between rounds, against values derived by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from flwr.app import ArrayRecord

from flwr_decaf.clients.own_store import POSTS_STORE
from flwr_decaf.config import Membership, Posts
from flwr_decaf.messages.checkpoint import load_checkpoint, save_checkpoint
from flwr_decaf.strategies import DLoRA
from tests.apps.pure_mixing import app
from tests.local_grid import LocalGrid
from tests.strategies.open_runs import PATH_OF_3, START, THIRD, away, run, starts

PATH_OF_4 = np.array(
    [
        [2 * THIRD, THIRD, 0, 0],
        [THIRD, THIRD, THIRD, 0],
        [0, THIRD, THIRD, THIRD],
        [0, 0, THIRD, 2 * THIRD],
    ]
)


def values(held, *places):
    assert sorted(held) == sorted(places)
    return np.array([held[place] for place in places])


def test_a_newcomer_starts_from_a_neighbours_model_and_a_node_that_left_is_left_out():
    grid = away(4, 3)
    held, _, strategy = run(grid, {1: partial(grid.join, 3), 2: partial(grid.leave, 1)}, rounds=4)
    first = PATH_OF_3 @ starts(0, 1, 2)
    np.testing.assert_allclose(values(held[1], 0, 1, 2), first)
    second = PATH_OF_4 @ first[[0, 1, 2, 2]]  # node 3 holds what node 2 does
    np.testing.assert_allclose(values(held[2], 0, 1, 2, 3), second)
    # In round 3, node 1 is missing, and its links are left out: 0, and 2 - 3.
    alone = np.array([[1, 0, 0], [0, 2 * THIRD, THIRD], [0, THIRD, 2 * THIRD]])
    third = alone @ second[[0, 2, 3]]
    np.testing.assert_allclose(values(held[3], 0, 2, 3), third)
    np.testing.assert_allclose(values(held[4], 0, 2, 3), PATH_OF_3 @ third)  # 0 - 2 - 3
    for t in (3, 4):
        np.testing.assert_allclose(values(held[t], 0, 2, 3).mean(0), second[[0, 2, 3]].mean(0))
    assert sorted(strategy.collect(grid)) == [0, 2, 3]


def test_nodes_that_stay_hold_what_a_closed_run_gives_them():
    held, *_ = run(LocalGrid(app, 3), rounds=3)
    expected = starts(0, 1, 2)
    for t in (1, 2, 3):
        expected = PATH_OF_3 @ expected
        np.testing.assert_allclose(values(held[t], 0, 1, 2), expected)


def test_a_node_that_is_back_in_time_keeps_its_model():
    grid = LocalGrid(app, 3)
    events = {1: partial(grid.leave, 2), 2: partial(grid.join, 2)}
    held, *_ = run(grid, events, rounds=3, leave_after=2)
    first = PATH_OF_3 @ starts(0, 1, 2)
    without_2 = np.array([[2 * THIRD, THIRD, 0], [THIRD, 2 * THIRD, 0], [0, 0, 1]])
    np.testing.assert_allclose(values(held[3], 0, 1, 2), PATH_OF_3 @ without_2 @ first)


def test_a_node_that_has_left_comes_back_as_a_newcomer_whether_or_not_its_id_is_new():
    for return_ in (LocalGrid.join, lambda grid, place: grid.away.discard(place)):
        grid = LocalGrid(app, 3)
        events = {1: partial(grid.leave, 2), 3: partial(return_, grid, 2)}
        held, *_ = run(grid, events, rounds=5)
        pair = np.full((2, 2), 0.5)
        second = (
            np.array([[2 * THIRD, THIRD], [THIRD, 2 * THIRD]]) @ (PATH_OF_3 @ starts(0, 1, 2))[:2]
        )
        third = pair @ second
        np.testing.assert_allclose(values(held[3], 0, 1), third)
        np.testing.assert_allclose(values(held[4], 0, 1, 2), PATH_OF_3 @ third[[0, 1, 1]])


def test_the_graph_shrinks_to_one_node_and_grows_again():
    grid = LocalGrid(app, 4)
    grid.away |= {2, 3}
    events = {1: partial(grid.leave, 0), 3: lambda: [grid.join(place) for place in (2, 3)]}
    held, *_ = run(grid, events, rounds=4, topology="ring", quorum=2)
    mean = starts(0, 1).mean(0)
    np.testing.assert_allclose(values(held[3], 1), [mean])
    np.testing.assert_allclose(values(held[4], 1, 2, 3), [mean] * 3)


def test_a_run_resumes_with_those_who_were_there(tmp_path):
    def events(grid):
        return {1: partial(grid.join, 3), 2: partial(grid.leave, 1)}

    grid = away(4, 3)
    whole, kept, _ = run(grid, events(grid), rounds=5, leave_after=2)
    assert kept[2].members == {0: 0, 1: 0, 2: 0, 3: 0}
    assert kept[3].members == {0: 0, 1: 1, 2: 0, 3: 0}
    assert kept[4].members == {0: 0, 1: 2, 2: 0, 3: 0}
    assert kept[5].members == {0: 0, 2: 0, 3: 0}
    save_checkpoint(tmp_path, kept[2])
    grid = LocalGrid(app, 4)
    # Node 1 is there at the roll call, and leaves in the round after it, as in the whole run.
    send = grid.send_and_receive
    grid.send_and_receive = lambda messages, timeout=None: _leaving(grid, send, list(messages))
    held, again, _ = run(grid, rounds=5, leave_after=2, resume_from=load_checkpoint(tmp_path))
    for t in (3, 4, 5):
        assert again[t].members == kept[t].members
        assert sorted(held[t - 2]) == sorted(whole[t])
        assert all(np.array_equal(held[t - 2][place], x) for place, x in whole[t].items())


def _leaving(grid, send, messages):
    if any("config" in message.content for message in messages):
        grid.leave(1)
    return send(messages)


def test_nodes_that_are_away_when_a_run_resumes_have_left(caplog):
    _, kept, _ = run(LocalGrid(app, 4), rounds=1, topology="path", quorum=4, leave_after=1)
    missing = replace(kept[1], members=kept[1].members | {1: 1})  # for which it does not wait
    grid = away(4, 1)
    held, again, strategy = run(grid, rounds=2, resume_from=missing)
    first = PATH_OF_4 @ starts(0, 1, 2, 3)
    np.testing.assert_allclose(values(held[1], 0, 2, 3), PATH_OF_3 @ first[[0, 2, 3]])
    assert sorted(again[2].posts) == sorted(again[2].mail) == [0, 2, 3]
    assert caplog.text.count("Node 1 has left") == 1
    assert sorted(strategy.collect(grid)) == [0, 2, 3]


def test_other_nodes_join_a_resumed_run_as_newcomers():
    _, kept, _ = run(away(4, 3), rounds=1)
    held, *_ = run(LocalGrid(app, 4), rounds=2, resume_from=kept[1])
    first = PATH_OF_3 @ starts(0, 1, 2)
    np.testing.assert_allclose(values(held[1], 0, 1, 2, 3), PATH_OF_4 @ first[[0, 1, 2, 2]])


def test_posts_of_nodes_that_have_left_are_deleted_from_a_store(tmp_path):
    def configure(place):
        return {"partition-id": place, "num-partitions": 4, POSTS_STORE: str(tmp_path)}

    def files():
        return [path for path in tmp_path.rglob("*") if path.is_file()]

    stored = []
    for posts in (Posts(), Posts(store=str(tmp_path))):
        grid, counts = away(4, 3, node_config=configure), []
        events = {1: partial(grid.join, 3), 2: partial(grid.leave, 1)}

        def come_and_go(reached, events=events, counts=counts):
            events.get(reached.server_round, int)()
            counts.append(len(files()))

        strategy = DLoRA(
            "path",
            membership=Membership("open", quorum=3, leave_after=1),
            posts=posts,
            on_round=come_and_go,
        )
        strategy.start(grid, ArrayRecord(START), num_rounds=5)
        stored.append((counts, strategy.collect(grid)))
    (none, expected), (counts, held) = stored
    assert none == [0] * 5
    # A post for each node; that of the newcomer is node 2's. In round 3, also what node 1 may still
    # need: its last post, and those of nodes 0 and 2 that it has not mixed. Then it has left.
    assert counts == [3, 3, 3 + 3, 3, 3]
    assert not files()
    assert all(torch.equal(expected[node]["x"], state["x"]) for node, state in held.items())
