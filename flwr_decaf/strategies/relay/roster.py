"""The roster: the Flower node id of each position in the graph, even if nodes register anew."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from flwr.serverapp import Grid

from flwr_decaf.config import Posts
from flwr_decaf.strategies.relay.presence import (
    Answers,
    announcements_of,
    require_disclosure,
    require_stores,
)
from flwr_decaf.strategies.relay.quorum import AllNodes
from flwr_decaf.strategies.relay.roll_call import newcomers, presences

_log = logging.getLogger("flwr")


class Changes(NamedTuple):
    """Positions of nodes, by what has changed since the last round.

    Attributes
    ----------
    back : sequence of int
        Nodes with a new node id.
    joined, left : sequence of int
        Nodes that have joined or left; by default none.
    settled : sequence of int
        The other nodes, without those that missed the last round; by default none.
    """

    back: Sequence[int]
    joined: Sequence[int] = ()
    left: Sequence[int] = ()
    settled: Sequence[int] = ()


class Roster:
    """Node ids by position in the graph.

    Parameters
    ----------
    ids : sequence of int
        Result of ``roll_call``.
    announcements : sequence of bytes
        Keys that the nodes have announced, by position; by default none.

    Attributes
    ----------
    ids : dict of int to int
        Position -> node id.
    missed : mapping of int to int
        Position -> number of successive rounds that the node has missed; empty if the nodes are
        those of the first round, whatever they miss.
    """

    missed: Mapping[int, int]

    def __init__(self, ids: Sequence[int], announcements: Sequence[bytes] = ()) -> None:
        self.ids = dict(enumerate(ids))
        self.announcements = announcements
        self.missed = {}
        self._seen = set(ids)

    @classmethod
    def call(cls, grid: Grid, num_nodes: int | None, posts: Posts) -> Roster:
        """Wait for all nodes, see ``roll_call``, and check that they can post as the run does."""
        answers = presences(grid, AllNodes(num_nodes))
        check_answers(answers, posts)
        return cls(list(answers), announcements_of(answers) if posts.encrypted else ())

    @property
    def size(self) -> int:
        """Number of positions."""
        return len(self.ids)

    @property
    def positions(self) -> list[int]:
        """Positions of the nodes that are there, in ascending order."""
        return sorted(self.ids)

    def expect(self, nodes: Iterable[int]) -> None:
        """Note that nodes are called in a round."""

    def heard(self, nodes: Iterable[int]) -> None:
        """Note that nodes have posted in a round."""

    def renew(self, grid: Grid) -> Changes:
        """Restore the positions of nodes that have a new id, such as restarted SuperNodes."""
        return Changes(back=self._readmit(self._newcomers(grid)))

    def _newcomers(self, grid: Grid) -> Answers:
        answers = newcomers(grid, self._seen)
        self._seen |= answers.keys()
        return answers

    def _readmit(self, answers: Answers) -> list[int]:
        places = {answer.get("partition-id"): node_id for node_id, answer in answers.items()}
        back = [node for node in self.positions if node in places]
        for node in back:
            _log.warning("Node %d is back under a new node id", node)
            self.ids[node] = places[node]
        return back


def check_answers(answers: Answers, posts: Posts) -> None:
    """Refuse nodes that cannot post as the run does.

    Raises
    ------
    RuntimeError
        If a node lacks a store or its permission to disclose its model.
    """
    if posts.store:
        require_stores(answers)
    if posts.encrypted and posts.disclose_adapters:
        require_disclosure(answers)
