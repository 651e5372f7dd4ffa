"""The nodes for which a run with open membership waits."""

from __future__ import annotations

import pytest

from flwr_decaf.config import Posts
from flwr_decaf.strategies.relay.open_roster import OpenRoster
from flwr_decaf.strategies.relay.quorum import SomeNodes
from flwr_decaf.strategies.relay.roll_call import presences
from tests.apps.pure_mixing import app
from tests.local_grid import LocalGrid


def grid_of(places, n=5):
    grid = LocalGrid(app, n)
    grid.away |= set(range(n)) - set(places)
    return grid


def answers(places, quorum, n=5, **options):
    grid = grid_of(places, n)
    got = presences(grid, quorum, patience=0.3, placed=True, **options)
    return [grid.ids.index(node_id) for node_id in got]


def test_a_run_starts_with_some_nodes_or_with_all():
    assert answers([1, 4], SomeNodes(2)) == [1, 4]
    assert answers(range(5), SomeNodes(0)) == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match=r"2 of 5 answered .*; start more .* topology.quorum"):
        answers([1, 4], SomeNodes(0))
    with pytest.raises(RuntimeError, match="quorum must be at most num-partitions, 5; got 6"):
        answers([1, 4], SomeNodes(6))


def test_a_resumed_run_waits_for_the_nodes_of_its_checkpoint_but_not_forever():
    members = frozenset({0, 1, 2})
    assert answers([0, 1, 2, 4], SomeNodes(0, members)) == [0, 1, 2, 4]
    assert answers([0, 2, 4], SomeNodes(0, members)) == [0, 2, 4]
    with pytest.raises(RuntimeError, match="0 of 3 answered the roll call"):
        answers([], SomeNodes(0, members))


@pytest.mark.parametrize("places", [[0, 0, 1], [0, 1, 3]])
def test_numbers_that_are_taken_twice_or_do_not_exist_are_refused(places):
    grid = LocalGrid(app, 3, node_config=lambda i: {"partition-id": places[i], "num-partitions": 3})
    with pytest.raises(RuntimeError, match="partition-ids must be 0 to 2, each at most once; got"):
        presences(grid, SomeNodes(3), placed=True)


def test_nodes_of_the_checkpoint_that_are_not_there_have_left_and_others_join_later():
    grid = grid_of([0, 2, 4])
    got = presences(grid, SomeNodes(3), placed=True)
    roster = OpenRoster(got, 3, Posts(), lambda grid, nodes: {}, missed={0: 0, 1: 2, 2: 1})
    assert roster.positions == [0, 2]
    assert dict(roster.missed) == {0: 0, 2: 1}
    changes = roster.renew(grid)
    assert (changes.joined, changes.left, changes.settled) == ([4], [], [0])
    assert roster.positions == [0, 2, 4]
