"""Failures of nodes: they are reported and counted, and too many in a round stop a run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from flwr_decaf.messages import records

_log = logging.getLogger("flwr")
DEAD_ACTOR = "a Ray actor died"  # marks errors of runs that a new engine can resume
_DEATHS = ("ActorDiedError", "ActorUnavailableError", "ray.exceptions.OutOfMemoryError")

OnFailure = Callable[[int, int, str], None]


class FailureLog:
    """Warn of each kind of failure once per node, and count the nodes missing in a round.

    The kind is the name of the exception, since its message often differs between rounds.

    Parameters
    ----------
    on_failure : callable
        Function that is called with the round, node and cause of each failure.
    """

    def __init__(self, on_failure: OnFailure) -> None:
        self._on_failure = on_failure
        self._times: Counter[tuple[int, str]] = Counter()
        self._missing: dict[int, dict[int, str]] = {}  # by round; nodes may be in different ones

    def note(self, server_round: int, node: int, cause: str) -> None:
        """Report a failure; warn unless the node has already failed in this way."""
        kind = (node, cause.partition(":")[0])
        self._times[kind] += 1
        if self._times[kind] == 1:
            _log.warning("Round %d: node %d failed: %s", server_round, node, cause)
        self._on_failure(server_round, node, cause)

    def note_missing(
        self, server_round: int, causes: Mapping[int, str], n: int, tolerated: int
    ) -> None:
        """Report missing nodes, and stop if too many have been missing in the round.

        Raises
        ------
        RuntimeError
            See ``check_failures``.
        """
        for node, cause in causes.items():
            self.note(server_round, node, cause)
        missing = self._missing.setdefault(server_round, {})
        missing |= causes
        check_failures(server_round, missing, n, tolerated)

    def summarize(self) -> None:
        """Log the counts of failures that occurred more than once."""
        for (node, kind), times in sorted(self._times.items()):
            if times > 1:
                _log.warning("Node %d failed %d times: %s", node, times, kind)


def check_failures(server_round: int, causes: Mapping[int, str], n: int, tolerated: int) -> None:
    """Stop a run in which too many nodes failed in a round.

    Parameters
    ----------
    server_round : int
        The round, for the error message.
    causes : mapping of int to str
        Failed node -> cause.
    n : int
        Number of nodes.
    tolerated : int
        Number of nodes that may fail.

    Raises
    ------
    RuntimeError
        If more nodes failed than ``tolerated``, with the first cause. Whatever the number, also if
        a Ray actor has died, since Flower returns it to its pool, where it fails every further
        message; or if the tensors of a node's model differ from the run's.
    """
    if any(death in cause for cause in causes.values() for death in _DEATHS):
        raise RuntimeError(
            f"round {server_round}: {DEAD_ACTOR} and cannot be replaced (often memory ran out); "
            "let fewer clients run at once: increase client-resources-num-cpus"
        )
    for node, cause in causes.items():
        if records.TRAINED in cause:
            raise RuntimeError(
                f"round {server_round}: node {node} has a different model and can never take part "
                f"({cause}); give all nodes the same model and LoRA settings, and return from "
                "train all arrays that it has received"
            )
    if len(causes) > tolerated:
        raise RuntimeError(
            f"round {server_round}: {len(causes)} of {n} nodes failed, more than the {tolerated} "
            f"that may fail; {_first(causes)}"
        )


def check_any_replied(server_round: int, causes: Mapping[int, str], asked: Collection[int]) -> None:
    """Stop a run if all nodes that were called together failed.

    Parameters
    ----------
    server_round : int
        The round, for the error message.
    causes : mapping of int to str
        Node that failed in this call -> cause.
    asked : collection of int
        Nodes that were called.

    Raises
    ------
    RuntimeError
        If all of them failed, with the first cause.
    """
    if causes and causes.keys() >= set(asked):
        raise RuntimeError(
            f"round {server_round}: {len(causes)} of {len(asked)} nodes failed, all of those "
            f"called; {_first(causes)}"
        )


def _first(causes: Mapping[int, str]) -> str:
    first = min(causes)
    return f"fix the first cause, node {first}: {causes[first]}"
