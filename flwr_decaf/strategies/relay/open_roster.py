"""The roster of a run with open membership: nodes join and leave between rounds.

A position is the number of a node, its partition-id, and stays the same while others come and go;
``num-partitions`` is the number of positions, not all of which are taken.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from flwr.app import ConfigRecord
from flwr.serverapp import Grid

from flwr_decaf.config import Membership, Posts
from flwr_decaf.messages import records
from flwr_decaf.strategies.relay.presence import Answers, place_of, size_of
from flwr_decaf.strategies.relay.quorum import SomeNodes
from flwr_decaf.strategies.relay.resuming import Resume
from flwr_decaf.strategies.relay.roll_call import presences
from flwr_decaf.strategies.relay.roster import Changes, Roster, check_answers

_log = logging.getLogger("flwr")
OnJoin = Callable[[Grid, Mapping[int, int]], Mapping[int, str]]


class OpenRoster(Roster):
    """Nodes that are there, and for how long others have been away.

    Parameters
    ----------
    answers : dict of int to ConfigRecord
        Answers to the roll call of the nodes with which the run starts, or resumes.
    leave_after : int
        Number of successive rounds that a node misses before it has left.
    posts : Posts
        How posts travel.
    on_join : callable
        Function of the grid and the nodes that join or come back (position -> node id, also those
        of a checkpoint that are not among the starting nodes) that returns the position of
        each node to refuse, with the reason; a node with an empty reason is asked again before the
        next round.
    missed : mapping of int to int, optional
        Position -> number of successive rounds that the node has missed, as of the checkpoint of a
        resumed run. Other nodes join in the next round.
    """

    def __init__(
        self,
        answers: Answers,
        leave_after: int,
        posts: Posts,
        on_join: OnJoin,
        missed: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__([])
        places = {place_of(answer): node_id for node_id, answer in answers.items()}
        resumed = (
            places if missed is None else {node: places[node] for node in missed.keys() & places}
        )
        self.ids = dict(sorted(resumed.items()))
        self.missed: dict[int, int] = {node: (missed or {}).get(node, 0) for node in self.ids}
        self._seen = set(self.ids.values())
        self._size = cast(int, size_of(answers))
        self._own_rows = bool(next(iter(answers.values())).get(records.OWN_ROWS))
        self._leave_after, self._posts = leave_after, posts
        self._on_join = on_join

    @classmethod
    def gather(
        cls,
        grid: Grid,
        membership: Membership,
        posts: Posts,
        on_join: OnJoin,
        resume: Resume,
    ) -> OpenRoster:
        """Wait for the nodes with which a run starts or resumes.

        Raises
        ------
        RuntimeError
            As ``presences``, or if none of these nodes has answered.
        """
        members = resume.resume_from.members if resume.resume_from else {}
        start = resume.starting_nodes
        answers = presences(grid, _quorum(membership, members, start or {}), placed=True)
        known = {i: one for i, one in answers.items() if start is None or i in start.values()}
        _check_any(known, start or {})
        check_answers(known, posts)
        roster = cls(known, membership.leave_after, posts, on_join, members or None)
        roster._take_back(grid, answers, members)
        _check_any(roster.ids, members)
        return roster

    def _take_back(self, grid: Grid, answers: Answers, members: Mapping[int, int]) -> None:
        """Take back members of a checkpoint that are not among the starting nodes, if they fit."""
        away = members.keys() - self.ids.keys()
        others = {node_id: one for node_id, one in answers.items() if place_of(one) in away}
        for node, node_id in self._admitted(grid, self._fitting(others, registered=())).items():
            self.ids[node], self.missed[node] = node_id, members[node]

    @property
    def size(self) -> int:
        """Number of positions, taken or not."""
        return self._size

    def expect(self, nodes: Iterable[int]) -> None:
        """Count the round as missed by nodes that are called, until they have posted."""
        for node in nodes:
            self.missed[node] += 1

    def heard(self, nodes: Iterable[int]) -> None:
        """Note that nodes have posted in a round."""
        self.missed |= dict.fromkeys(nodes, 0)

    def renew(self, grid: Grid) -> Changes:
        """Follow the nodes that are back, have left or want to join."""
        claims = self._claims(grid)
        left = self._leave()
        settled = [node for node in self.positions if not self.missed[node]] or self.positions
        admitted = self._admitted(grid, claims)
        back = self._readmit(admitted)
        joined = self._join(admitted)
        if joined or left:
            _log.info("The graph is rebuilt for the nodes %s", self.positions)
        return Changes(back, joined, left, settled)

    def _leave(self) -> list[int]:
        left = [node for node, rounds in self.missed.items() if rounds >= self._leave_after]
        for node in left:
            rounds = self.missed.pop(node)
            _log.warning("Node %d has left; successive rounds that it missed: %d", node, rounds)
            self._seen.discard(self.ids.pop(node))  # it may join again
        return left

    def _admitted(self, grid: Grid, claims: Mapping[int, int]) -> dict[int, int]:
        """Return the claims that ``on_join`` does not refuse."""
        refused = self._on_join(grid, claims) if claims else {}
        for node in sorted(claims.keys() & refused.keys()):
            if refused[node]:
                _log.warning("Node %d is refused: %s", node, refused[node])
            else:
                self._seen.discard(claims[node])  # it is asked again
        return {node: claims[node] for node in sorted(claims.keys() - refused.keys())}

    def _join(self, admitted: Mapping[int, int]) -> list[int]:
        joined = [node for node in admitted if node not in self.ids]
        for node in joined:
            _log.warning("Node %d has joined", node)
            self.ids[node], self.missed[node] = admitted[node], 0
        return joined

    def _refusal(self, answer: ConfigRecord) -> str:
        place, size = answer.get("partition-id"), answer.get("num-partitions")
        if size != self._size or not isinstance(place, int) or not 0 <= place < self._size:
            return (
                f"its partition-id must be from 0 to {self._size - 1} and its num-partitions "
                f"{self._size}; got {place!r} and {size!r}; change --node-config"
            )
        if bool(answer.get(records.OWN_ROWS)) != self._own_rows:
            return (
                f"node {place} must have data-path in its node-config if and only if the other "
                "nodes do; change --node-config"
            )
        if self._posts.store and not answer.get(records.OWN_STORE):
            return f"node {place} must have posts-store in its node-config; add it"
        return ""


def _quorum(
    membership: Membership, members: Mapping[int, int], start: Mapping[int, int]
) -> SomeNodes:
    # A node that has missed its last round allowed leaves anyway when the next one starts.
    awaited = {node for node, rounds in members.items() if rounds < membership.leave_after}
    return SomeNodes(membership.quorum, frozenset(awaited if members else start))


def _check_any(nodes: Mapping[int, object], awaited: Mapping[int, int]) -> None:
    if not nodes:
        raise RuntimeError(
            f"none of the nodes of the run, {sorted(awaited)}, has answered the roll call; start "
            "one of their SuperNodes and resume the run, or start a new one"
        )
