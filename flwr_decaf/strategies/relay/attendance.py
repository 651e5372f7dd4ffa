"""Attendance: the nodes that are called in a round, called again, or missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from flwr_decaf.config import Failures
from flwr_decaf.messages import records
from flwr_decaf.strategies.relay.failures import FailureLog, OnFailure, check_any_replied
from flwr_decaf.strategies.relay.mailbox import Mailbox
from flwr_decaf.strategies.relay.replies import Replies, sort_replies


@dataclass(frozen=True)
class _Call:
    """Nodes that are called together, how, and those that turned out to be missing."""

    grid: Grid
    asked: list[int]
    write: Callable[[int], Message]
    missing: dict[int, str] = field(default_factory=dict)


class Attendance:
    """Call nodes, retry those that fail, and stop a run in which too many fail.

    Parameters
    ----------
    failures : Failures
        How often failed nodes are called again, and how many may fail in a round.
    on_failure : callable
        Function that is called with the round, node and cause of each failure.
    timeout : float
        Seconds to wait for nodes that are called again.

    Attributes
    ----------
    log : FailureLog
        Failures of the run so far.
    """

    _call: _Call  # the last one

    def __init__(self, failures: Failures, on_failure: OnFailure, timeout: float) -> None:
        self.log = FailureLog(on_failure)
        self._failures = failures
        self._timeout = timeout

    def ask(
        self, grid: Grid, nodes: Iterable[int], write: Callable[[int], Message]
    ) -> list[Message]:
        """Write a message to each node, and remember the function for further attempts."""
        self._call = _Call(grid, sorted(nodes), write)
        return [write(node) for node in self._call.asked]

    def gather(
        self,
        server_round: int,
        replies: Iterable[Message],
        nodes: Mapping[int, int],
        mailbox: Mailbox,
    ) -> dict[int, RecordDict]:
        """Sort replies, update the mailbox, and retry nodes that failed.

        A node that has lost its state is called once more, whatever ``retries`` is. A node that has
        not replied at all is not called again, since it may still be working.

        Returns
        -------
        dict of int to RecordDict
            Contents of the successful replies, by position in ascending order.

        Raises
        ------
        RuntimeError
            See ``check_failures`` and ``check_any_replied``.
        """
        call = self._call
        got = noted_replies(replies, nodes, call.asked, mailbox)
        contents, errors, silent = got.contents, got.errors, got.silent
        for left in range(self._failures.retries, -1, -1):
            # A lost state is not a failure: the node is called again, with its last post.
            again = list(errors) if left else got.lost
            if not again:
                break
            written = [call.write(node) for node in again]
            answers = call.grid.send_and_receive(written, timeout=self._timeout)
            got = noted_replies(answers, nodes, again, mailbox)
            contents |= got.contents
            silent |= got.silent
            errors = {node: errors[node] for node in errors.keys() - again} | got.errors
        missing = dict(sorted((errors | silent).items()))
        self.note_missing(server_round, missing, n=len(nodes))
        for node, content in contents.items():
            report_refused(self.log, server_round, node, content)
        return dict(sorted(contents.items()))

    def note_missing(self, server_round: int, causes: Mapping[int, str], n: int) -> None:
        """Report nodes missing in a round of n nodes, and stop if there are too many."""
        self._call.missing.update(causes)
        self.log.note_missing(server_round, causes, n, self._failures.tolerated(n))
        check_any_replied(server_round, self._call.missing, self._call.asked)


def noted_replies(
    replies: Iterable[Message], nodes: Mapping[int, int], called: Iterable[int], mailbox: Mailbox
) -> Replies:
    """Sort replies, and note in the mailbox which nodes have received their mail, or lost it.

    See ``sort_replies``. A silent node may still be working; whatever it computes, it resumes from
    its last post.
    """
    got = sort_replies(replies, nodes, called)
    for node in got.contents:
        mailbox.delivered(node)
    for node in (*got.lost, *got.silent):
        mailbox.lost(node)
    return got


def report_refused(log: FailureLog, server_round: int, node: int, content: RecordDict) -> None:
    """Report the posts that a node refused; they are taken out of the content of its reply."""
    refused = cast(ConfigRecord, content.pop(records.REFUSED, ConfigRecord()))
    senders = cast(list[int], refused.get("senders", []))
    for sender, cause in zip(senders, cast(list[str], refused.get("causes", [])), strict=True):
        log.note(server_round, sender, f"node {node} refused its post: {cause}")
