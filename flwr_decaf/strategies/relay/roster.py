"""The roster: the Flower node id of each position in the graph, even if nodes register anew."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from flwr.app import ConfigRecord
from flwr.serverapp import Grid

from flwr_decaf.config import Posts
from flwr_decaf.strategies.relay.presence import (
    Answers,
    announcements_of,
    place_of,
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
        Nodes that were there before, without those that missed the last round, unless all have
        missed it; by default none.
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
        return Changes(back=self._readmit(self._claims(grid)))

    def _claims(self, grid: Grid) -> dict[int, int]:
        """Ask nodes that have registered; return the positions that they may take, and their ids.

        The position of a node that is still registered is taken, whoever else has its partition-id.
        """
        registered = set(grid.get_node_ids())
        self._seen &= registered | set(self.ids.values())
        answers = newcomers(grid, registered - self._seen)
        return self._fitting(answers, registered)

    def _fitting(self, answers: Answers, registered: Collection[int]) -> dict[int, int]:
        self._seen |= answers.keys()
        claims: dict[int, int] = {}
        for node_id, answer in answers.items():
            if reason := self._refusal(answer):
                _log.warning("A new node is refused: %s", reason)
            elif (place := place_of(answer)) in claims or self.ids.get(place) in registered:
                _log.warning("Another node has partition-id %d; it waits until this is free", place)
                self._seen.discard(node_id)  # it is asked again
            else:
                claims[place] = node_id
        return claims

    def _refusal(self, answer: ConfigRecord) -> str:
        """Say why a node cannot take the position that it claims; empty if it can."""
        place = answer.get("partition-id")
        if isinstance(place, int) and place in self.ids:
            return ""
        return (
            f"its partition-id must be that of the node that it replaces, 0 to {self.size - 1}; "
            f"got {place!r}; change --node-config"
        )

    def _readmit(self, claims: Mapping[int, int]) -> list[int]:
        back = [node for node in self.positions if node in claims]
        for node in back:
            _log.warning("Node %d is back under a new node id", node)
            self.ids[node] = claims[node]
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
