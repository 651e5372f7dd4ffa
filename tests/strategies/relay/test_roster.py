"""Who takes which position when nodes register, stop and restart."""

from __future__ import annotations

from functools import partial

import pytest

from flwr_decaf.config import Membership, Posts
from flwr_decaf.messages.checkpoint import Checkpoint
from flwr_decaf.strategies.relay.open_roster import OpenRoster
from flwr_decaf.strategies.relay.quorum import SomeNodes
from flwr_decaf.strategies.relay.resuming import Resume
from flwr_decaf.strategies.relay.roll_call import presences
from flwr_decaf.strategies.relay.roster import Roster
from tests.apps.pure_mixing import app
from tests.local_grid import LocalGrid

N = 3


def grid_of_claimant(place, size=N):
    """Return nodes 0 to 2 and a fourth SuperNode, not yet started, that claims a place."""

    def configure(i):
        return {"partition-id": i, "num-partitions": N} if i < N else claimed

    claimed = {"partition-id": place, "num-partitions": size}
    grid = LocalGrid(app, N + 1, node_config=configure)
    grid.away.add(N)
    return grid


def open_roster(grid, n=N, on_join=lambda grid, nodes: {}, **options):
    got = presences(grid, SomeNodes(n), placed=True)
    return OpenRoster(got, 2, Posts(), on_join, **options)


def closed_roster(grid):
    return Roster.call(grid, None, Posts())


@pytest.mark.parametrize("roster_of", [open_roster, closed_roster])
def test_a_restarted_node_takes_its_place_again(roster_of):
    grid = LocalGrid(app, N)
    roster = roster_of(grid)
    grid.join(1)
    changes = roster.renew(grid)
    assert changes.back == [1]
    assert not changes.joined
    assert roster.ids[1] == grid.ids[1]


@pytest.mark.parametrize("roster_of", [open_roster, closed_roster])
def test_no_node_takes_the_place_of_one_that_is_registered(roster_of, caplog):
    grid = grid_of_claimant(1)
    roster = roster_of(grid)
    before = dict(roster.ids)
    grid.away.discard(N)
    for _ in range(2):
        assert not roster.renew(grid).back
        assert roster.ids == before
    assert caplog.text.count("Another node has partition-id 1") == 2
    grid.leave(1)
    assert roster.renew(grid).back == [1]
    assert roster.ids == before | {1: grid.ids[N]}


@pytest.mark.parametrize(("place", "size"), [(1, 99), (5, N)])
def test_a_node_that_does_not_fit_takes_no_place_even_if_it_is_free(place, size):
    grid = grid_of_claimant(place, size)
    roster = open_roster(grid)
    before = dict(roster.ids)
    grid.away.discard(N)
    grid.leave(1)
    changes = roster.renew(grid)
    assert not changes.back
    assert not changes.joined
    assert roster.ids == before


def test_the_caller_can_refuse_a_node_that_is_back():
    grid = LocalGrid(app, N)
    roster = open_roster(grid, on_join=lambda grid, nodes: dict.fromkeys(nodes, "other rows"))
    before = dict(roster.ids)
    grid.join(1)
    assert not roster.renew(grid).back
    assert roster.ids == before


def test_a_node_that_restarts_and_never_posts_leaves():
    grid = LocalGrid(app, N)
    roster = open_roster(grid)
    for missed in (1, 2):
        roster.expect([0, 1, 2])
        roster.heard([0, 1])
        assert roster.missed == {0: 0, 1: 0, 2: missed}
        grid.join(2)
        changes = roster.renew(grid)
        assert changes.settled == [0, 1]  # its own post is old
        assert (changes.back, changes.left) == (([2], []) if missed == 1 else ([], [2]))
    assert changes.joined == [2]


def test_newcomers_start_from_a_node_that_missed_the_last_round_if_all_did():
    grid = LocalGrid(app, N)
    roster = open_roster(grid, missed={0: 1, 1: 1})
    changes = roster.renew(grid)
    assert (changes.joined, changes.settled) == ([2], [0, 1])


def test_a_node_that_has_not_answered_in_time_is_asked_again():
    grid, reasons = LocalGrid(app, N), ["", "", "no rows"]
    grid.away.add(2)
    roster = open_roster(grid, 2, on_join=lambda grid, nodes: {2: reasons.pop(0)})
    grid.away.discard(2)
    for left in (2, 1, 0, 0):  # the last reason is final
        assert not roster.renew(grid).joined
        assert len(reasons) == left


def test_a_node_that_was_refused_is_asked_again_once_it_has_been_away():
    grid, reasons = LocalGrid(app, N), [{2: "no rows"}, {}]
    grid.away.add(2)
    roster = open_roster(grid, 2, on_join=lambda grid, nodes: reasons.pop(0))
    for joined in ([], [2]):
        grid.away.discard(2)  # under the same id
        assert roster.renew(grid).joined == joined
        grid.leave(2)
        roster.renew(grid)


def gathered(grid, refused, start, members=None):
    """Return the roster of nodes that start or resume, and what the caller was asked."""
    asked = []

    def on_join(grid, nodes):
        asked.append(dict(nodes))
        return {node: "other rows" for node in nodes if node in refused}

    checkpoint = None if members is None else Checkpoint(4, posts={}, members=members)
    resume = Resume(checkpoint, starting_nodes={node: grid.ids[node] for node in start})
    return OpenRoster.gather(grid, Membership("open", quorum=2), Posts(), on_join, resume), asked


def test_nodes_that_register_while_a_run_starts_join_like_others():
    grid = LocalGrid(app, N, node_config=own_rows_but_not_node_0)
    roster, asked = gathered(grid, refused=(), start=[1, 2])
    assert (roster.positions, asked) == ([1, 2], [])
    changes = roster.renew(grid)
    assert (roster.positions, changes.joined, asked) == ([1, 2], [], [])  # it has no data-path
    grid = LocalGrid(app, N)
    roster, asked = gathered(grid, refused=(), start=[1, 2])
    assert (roster.positions, roster.renew(grid).joined) == ([1, 2], [0])
    assert asked == [{0: grid.ids[0]}]


def own_rows_but_not_node_0(place):
    return {"partition-id": place, "num-partitions": N} | ({"data-path": "/x"} if place else {})


def test_nodes_of_the_checkpoint_that_have_not_been_checked_are_checked_as_a_run_resumes():
    grid = LocalGrid(app, 4)
    roster, asked = gathered(grid, refused=[1], start=[0], members={0: 0, 1: 0, 2: 1})
    assert asked == [{1: grid.ids[1], 2: grid.ids[2]}]  # node 3 is not in the checkpoint
    assert roster.missed == {0: 0, 2: 1}
    assert roster.ids == {0: grid.ids[0], 2: grid.ids[2]}
    assert roster.renew(grid).joined == [3]
    assert roster.positions == [0, 2, 3]  # node 1 is not asked again


def test_a_run_does_not_start_without_its_nodes():
    grid = LocalGrid(app, N)
    start = {node: grid.ids[node] for node in (0, 1)}
    grid.join(0)
    grid.join(1)
    gather = partial(OpenRoster.gather, grid, Membership("open"), Posts(), lambda grid, nodes: {})
    with pytest.raises(RuntimeError, match=r"none of the nodes of the run, \[0, 1\], has answered"):
        gather(Resume(starting_nodes=start))
