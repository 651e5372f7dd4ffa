"""Attendance: who was asked in a round, who is asked again, and whether too many are missing."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from flwr_decaf.messages import records
from flwr_decaf.strategies.relay.mailbox import Mailbox
from flwr_decaf.strategies.relay.replies import Replies, sort_replies

_log = logging.getLogger("flwr")
DEAD_ACTOR = "a Ray actor died"  # in the error of a run that a fresh engine can resume
_DEATHS = ("ActorDiedError", "ActorUnavailableError", "ray.exceptions.OutOfMemoryError")

OnFailure = Callable[[int, int, str], None]


class FailureLog:
    """Warns of a kind of failure once a node, and at the end of how often it came.

    A kind is an exception's name: what follows the name often differs from round to round.
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
        """Say how often each failure came that came more than once."""
        for (node, kind), times in sorted(self._times.items()):
            if times > 1:
                _log.warning("Node %d failed %d times: %s", node, times, kind)


class Attendance:
    """Asks nodes, asks those again that answer with an error, and stops a run that is too empty.

    Parameters
    ----------
    retries : int
        How often a node that answers with an error is asked again.
    max_failures : int or None
        Nodes that may fail in a round; None lets half of them.
    on_failure : callable
        Called with round, node and cause for each node that failed.

    Attributes
    ----------
    timeout : float or None
        Seconds to wait for those that are asked again.
    """

    def __init__(self, retries: int, max_failures: int | None, on_failure: OnFailure) -> None:
        self.retries = retries
        self.max_failures = max_failures
        self.on_failure = on_failure
        self.log = FailureLog()
        self.timeout: float | None = None

    def ask(
        self, grid: Grid, nodes: Iterable[int], write: Callable[[int], Message]
    ) -> list[Message]:
        """Write to nodes, and remember how."""
        self._grid, self._write, self._asked = grid, write, sorted(nodes)
        return [write(node) for node in self._asked]

    def gather(
        self,
        server_round: int,
        replies: Iterable[Message],
        nodes: Sequence[int],
        mailbox: Mailbox,
    ) -> dict[int, RecordDict]:
        """Sort replies, keep the mailbox up to date, and ask those again that failed.

        A node that has lost its state is asked once more, whatever ``retries`` says. One that has
        not answered at all is not: it may still be at work.

        Returns
        -------
        dict of int to RecordDict
            Good replies by position, in its order.

        Raises
        ------
        RuntimeError
            See ``check_failures``.
        """
        got = _noted(sort_replies(replies, nodes), mailbox)
        contents, errors = got.contents, got.errors
        for left in range(self.retries, -1, -1):
            # That a node lost its state is no failure: it is asked again with its last post.
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
            if node not in errors:  # whatever it still does, it continues from its last post
                mailbox.lost(node)
        self.note_missing(server_round, causes, asked=len(self._asked), n=len(nodes))
        for node, content in contents.items():
            self._tell_refused(server_round, node, content)
        return dict(sorted(contents.items()))

    def note_missing(
        self, server_round: int, causes: Mapping[int, str], asked: int, n: int
    ) -> None:
        """Report who is missing in a round, and stop if too many are: see ``check_failures``."""
        for node, cause in causes.items():
            self.log.note(server_round, node, cause)
            self.on_failure(server_round, node, cause)
        tolerated = n // 2 if self.max_failures is None else self.max_failures
        check_failures(server_round, causes, asked, tolerated)

    def _tell_refused(self, server_round: int, node: int, content: RecordDict) -> None:
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
        For the message.
    causes : mapping of int to str
        Failed node -> why.
    asked : int
        How many nodes were asked.
    tolerated : int
        How many may fail.

    Raises
    ------
    RuntimeError
        With the first cause; or, whatever the number, if a Ray actor has died: Flower puts it
        back into its pool, where it would fail every message that it draws from then on.
    """
    if any(death in cause for cause in causes.values() for death in _DEATHS):
        raise RuntimeError(
            f"round {server_round}: {DEAD_ACTOR} and cannot be replaced (often memory ran out); "
            "let fewer clients run at once: raise client-resources-num-cpus"
        )
    if causes and (len(causes) == asked or len(causes) > tolerated):
        first = min(causes)
        excess = f"more than the {tolerated} that may" if len(causes) > tolerated else "all"
        raise RuntimeError(
            f"round {server_round}: {len(causes)} of {asked} nodes failed, {excess}; fix the "
            f"first cause, node {first}: {causes[first]}"
        )
