"""The quorum: the nodes for which a roll call waits, and their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from flwr_decaf.strategies.relay.presence import Answers, place_of, size_of


class Quorum(Protocol):
    """The nodes for which a roll call waits."""

    def is_complete(self, answers: Answers) -> bool:
        """Return whether the wait is over."""

    def missing(self, answers: Answers) -> str:
        """Describe which nodes are missing, and the remedy."""

    def suffices(self, answers: Answers) -> bool:
        """Return whether a run starts with the nodes that have answered in time."""

    def so_far(self, answers: Answers) -> str:
        """Describe how many nodes have answered."""

    def in_order(self, answers: Answers) -> list[int]:
        """Sort the nodes, and refuse those that do not fit together."""


@dataclass(frozen=True)
class AllNodes:
    """All nodes of a run with closed membership.

    Parameters
    ----------
    num_nodes : int, optional
        Their number; by default the nodes' own ``num-partitions``.
    """

    num_nodes: int | None = None

    def is_complete(self, answers: Answers) -> bool:
        """Return whether all nodes have answered.

        Raises
        ------
        RuntimeError
            If the numbers of partitions differ from one another or from ``num_nodes``.
        """
        expected = self._expected(answers)
        return expected is not None and len(answers) >= expected

    def missing(self, answers: Answers) -> str:
        """Describe which nodes are missing, and the remedy."""
        expected = self._expected(answers)
        if expected is None:
            remedy = (
                "give each SuperNode num-partitions in --node-config, or pass num_nodes to the "
                "strategy"
                if answers
                else "start the SuperNodes"
            )
            return f"{self.so_far(answers)}; {remedy}"
        places = {answer.get("partition-id") for answer in answers.values()}
        absent = sorted(set(range(expected)) - places)
        if None in places or len(absent) != expected - len(answers):
            who = f"{expected - len(answers)} SuperNodes"
        else:
            who = f"those with partition-id {', '.join(map(str, absent))}"
        lower = "" if self.num_nodes is None else ", or lower num_nodes"
        return f"{self.so_far(answers)}; start {who}{lower}"

    def suffices(self, answers: Answers) -> bool:
        """Return False: a closed run needs all its nodes."""
        return False

    def so_far(self, answers: Answers) -> str:
        """Describe how many nodes have answered."""
        expected = self._expected(answers) or "an unknown number"
        return f"{len(answers)} of {expected} answered the roll call"

    def in_order(self, answers: Answers) -> list[int]:
        """Sort the nodes by partition-id, or by node id if no node has one.

        Raises
        ------
        RuntimeError
            If the partition-ids are not 0 to n - 1, each once, or there are more nodes than
            ``num_nodes``.
        """
        if self.num_nodes is not None and len(answers) > self.num_nodes:
            raise RuntimeError(
                f"num_nodes must be the number of nodes; got {self.num_nodes}, but {len(answers)} "
                "answered the roll call; increase num_nodes, or stop the other SuperNodes"
            )
        places = {node_id: answer.get("partition-id") for node_id, answer in answers.items()}
        if set(places.values()) == {None}:
            return sorted(places)
        if sorted(map(str, places.values())) != sorted(map(str, range(len(places)))):
            raise RuntimeError(
                f"partition-ids must be 0 to {len(places) - 1}, each once; got "
                f"{sorted(map(str, places.values()))}; fix --node-config of the SuperNodes"
            )
        return _by_place(answers)

    def _expected(self, answers: Answers) -> int | None:
        """Return the expected number of nodes, and refuse contradictory numbers."""
        size = size_of(answers)
        if self.num_nodes is not None and size not in (None, self.num_nodes):
            raise RuntimeError(
                f"num_nodes must be the nodes' num-partitions, {size}; got {self.num_nodes}; omit "
                "num_nodes, or change --node-config"
            )
        return self.num_nodes if size is None else size


@dataclass(frozen=True)
class SomeNodes:
    """The nodes with which a run with open membership starts or resumes.

    A resumed run waits for the nodes of its checkpoint, but not forever: those that do not answer
    in time have left.

    Parameters
    ----------
    number : int
        Number of nodes with which a run starts; 0 for all ``num-partitions``.
    members : collection of int
        Nodes of the checkpoint of a resumed run; by default none.
    """

    number: int
    members: frozenset[int] = frozenset()

    def is_complete(self, answers: Answers) -> bool:
        """Return whether the run can start.

        Raises
        ------
        RuntimeError
            If the numbers of partitions differ, or are smaller than ``number``.
        """
        if self.members:
            return self.members <= set(map(place_of, answers.values()))
        return bool(answers) and len(answers) >= self._needed(answers)

    def missing(self, answers: Answers) -> str:
        """Describe which nodes are missing, and the remedy."""
        return f"{self.so_far(answers)}; start more SuperNodes, or lower topology.quorum"

    def suffices(self, answers: Answers) -> bool:
        """Return whether a run starts with the nodes that have answered in time."""
        return bool(self.members and answers)

    def so_far(self, answers: Answers) -> str:
        """Describe how many nodes have answered."""
        needed = len(self.members) or self._needed(answers) or "an unknown number"
        return f"{len(answers)} of {needed} answered the roll call"

    def in_order(self, answers: Answers) -> list[int]:
        """Sort the nodes by partition-id.

        Raises
        ------
        RuntimeError
            If two nodes have the same one, or one is not below ``num-partitions``.
        """
        places = list(map(place_of, answers.values()))
        size = size_of(answers) or 0
        if len(set(places)) < len(places) or not set(places) <= set(range(size)):
            raise RuntimeError(
                f"partition-ids must be 0 to {size - 1}, each at most once; got {sorted(places)}; "
                "fix --node-config of the SuperNodes"
            )
        return _by_place(answers)

    def _needed(self, answers: Answers) -> int:
        size = size_of(answers) or 0
        if answers and self.number > size:
            raise RuntimeError(
                f"topology.quorum must be at most num-partitions, {size}; got "
                f"{self.number}; lower it, or increase num-partitions in --node-config"
            )
        return self.number or size


def _by_place(answers: Answers) -> list[int]:
    return sorted(answers, key=lambda node_id: place_of(answers[node_id]))
