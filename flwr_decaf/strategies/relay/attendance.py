"""Attendance: nodes called in a round, those called again, and whether too many have failed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from flwr_decaf.config import Failures
from flwr_decaf.messages import records
from flwr_decaf.strategies.relay.mailbox import Mailbox
from flwr_decaf.strategies.relay.replies import Replies, sort_replies

_log = logging.getLogger("flwr")
DEAD_ACTOR = "a Ray actor died"  # marks the error of a run that a new engine can resume
_DEATHS = ("ActorDiedError", "ActorUnavailableError", "ray.exceptions.OutOfMemoryError")

OnFailure = Callable[[int, int, str], None]


class FailureLog:
    """Warn of each kind of failure once per node, and summarize the counts at the end.

    The kind is the name of the exception, as its message often differs from round to round.
    """

    def __init__(self) -> None:
        self._times: Counter[tuple[int, str]] = Counter()

    def note(self, server_round: int, node: int, cause: str) -> None:
        """Warn, unless the node has failed like this before."""
        kind = (node, cause.partition(":")[0])
        self._times[kind] += 1
        if self._times[kind] == 1:
            _log.warning("Round %d: node %d failed: %s", server_round, node, cause)

    def summarize(self) -> None:
        """Log the counts of failures that occurred more than once."""
        for (node, kind), times in sorted(self._times.items()):
            if times > 1:
                _log.warning("Node %d failed %d times: %s", node, times, kind)


class Attendance:
    """Call nodes, call those that fail again, and stop a run in which too many fail.

    Parameters
    ----------
    failures : Failures
        How often failed nodes are called again, and how many may fail in a round.
    on_failure : callable
        Function called with round, node and cause for each node that failed.

    Attributes
    ----------
    log : FailureLog
        Failures of the run so far.
    timeout : float or None
        Seconds to wait for nodes that are called again; by default None, without limit.
    """

    def __init__(self, failures: Failures, on_failure: OnFailure) -> None:
        self.failures = failures
        self.on_failure = on_failure
        self.log = FailureLog()
        self.timeout: float | None = None

    def ask(
        self, grid: Grid, nodes: Iterable[int], write: Callable[[int], Message]
    ) -> list[Message]:
        """Write a message to each node, and remember the function for further attempts."""
        self._grid, self._write, self._asked = grid, write, sorted(nodes)
        return [write(node) for node in self._asked]

    def gather(
        self,
        server_round: int,
        replies: Iterable[Message],
        nodes: Sequence[int],
        mailbox: Mailbox,
    ) -> dict[int, RecordDict]:
        """Sort replies, update the mailbox, and call nodes that failed again.

        A node that has lost its state is called once more, whatever ``retries`` is. A node that
        has not replied at all is not: it may still be working.

        Returns
        -------
        dict of int to RecordDict
            Contents of the successful replies, by position in ascending order.

        Raises
        ------
        RuntimeError
            See ``check_failures``.
        """
        got = _noted(sort_replies(replies, nodes), mailbox)
        contents, errors = got.contents, got.errors
        for left in range(self.failures.retries, -1, -1):
            # A lost state is not a failure: the node is called again, with its last post.
            again = list(errors) if left else got.lost
            if not again:
                break
            written = [self._write(node) for node in again]
            answers = self._grid.send_and_receive(written, timeout=self.timeout)
            got = _noted(sort_replies(answers, nodes), mailbox)
            contents |= got.contents
            errors = {node: errors[node] for node in errors.keys() - again} | got.errors
        missing = [node for node in self._asked if node not in contents]
        causes = {node: errors.get(node, got.silence) for node in missing}
        for node in missing:
            if node not in errors:  # whatever it still computes, it resumes from its last post
                mailbox.lost(node)
        self.note_missing(server_round, causes, asked=len(self._asked), n=len(nodes))
        for node, content in contents.items():
            self._report_refused(server_round, node, content)
        return dict(sorted(contents.items()))

    def note_missing(
        self, server_round: int, causes: Mapping[int, str], asked: int, n: int
    ) -> None:
        """Report the nodes missing in a round, and stop if there are too many."""
        for node, cause in causes.items():
            self.log.note(server_round, node, cause)
            self.on_failure(server_round, node, cause)
        check_failures(server_round, causes, asked, self.failures.tolerated(n))

    def _report_refused(self, server_round: int, node: int, content: RecordDict) -> None:
        refused = cast(ConfigRecord, content.pop(records.REFUSED, ConfigRecord()))
        senders = cast(list[int], refused.get("senders", []))
        for sender, cause in zip(senders, cast(list[str], refused.get("causes", [])), strict=True):
            refusal = f"node {node} refused its post: {cause}"
            self.log.note(server_round, sender, refusal)
            self.on_failure(server_round, sender, refusal)


def _noted(got: Replies, mailbox: Mailbox) -> Replies:
    for node in got.contents:
        mailbox.delivered(node)
    for node in got.lost:
        mailbox.lost(node)
    return got


def check_failures(
    server_round: int, causes: Mapping[int, str], asked: int, tolerated: int
) -> None:
    """Stop a run in which too many nodes failed in a round.

    Parameters
    ----------
    server_round : int
        The round, for the error message.
    causes : mapping of int to str
        Failed node -> cause.
    asked : int
        Number of nodes that were called.
    tolerated : int
        Number of nodes that may fail.

    Raises
    ------
    RuntimeError
        If all nodes failed, or more than ``tolerated``, with the first cause. Also, whatever the
        number, if a Ray actor has died, since Flower returns it to its pool, where it fails every
        further message; or if a node's model has other tensors than the run's.
    """
    if any(death in cause for cause in causes.values() for death in _DEATHS):
        raise RuntimeError(
            f"round {server_round}: {DEAD_ACTOR} and cannot be replaced (often memory ran out); "
            "let fewer clients run at once: raise client-resources-num-cpus"
        )
    for node, cause in causes.items():
        if records.TRAINED in cause:
            raise RuntimeError(
                f"round {server_round}: node {node} has another model than the run and can never "
                f"take part ({cause}); give all nodes the same model and LoRA settings"
            )
    if causes and (len(causes) == asked or len(causes) > tolerated):
        first = min(causes)
        excess = f"more than the {tolerated} that may" if len(causes) > tolerated else "all"
        raise RuntimeError(
            f"round {server_round}: {len(causes)} of {asked} nodes failed, {excess}; fix the "
            f"first cause, node {first}: {causes[first]}"
        )
