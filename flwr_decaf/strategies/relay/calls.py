"""Calls of single nodes, whose replies are taken as they come.

This uses the two halves of Flower's ``Grid.send_and_receive``, which waits for all replies.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from flwr.app import Message
from flwr.serverapp import Grid

_PAUSE = 0.1  # seconds between two looks at the grid, as in Flower's simulation


class _Call(NamedTuple):
    node: int
    until: float  # of time.monotonic()


class Calls:
    """Messages on their way, at most one for each node.

    Parameters
    ----------
    grid : Grid
        Flower's connection to the nodes.
    timeout : float
        Seconds to wait for a reply.
    """

    def __init__(self, grid: Grid, timeout: float) -> None:
        self._grid = grid
        self._timeout = timeout
        self._calls: dict[str, _Call] = {}  # by the id of the message

    def __len__(self) -> int:
        return len(self._calls)

    def send(self, node: int, message: Message) -> None:
        """Send a message to the node at a position.

        Raises
        ------
        RuntimeError
            If Flower does not accept it.
        """
        sent = [number for number in self._grid.push_messages([message]) if number]
        if not sent:
            raise RuntimeError(
                f"the message for node {node} was not accepted by the SuperLink; see its log for "
                "the cause, and for a large model set posts.store"
            )
        self._calls[sent[0]] = _Call(node, time.monotonic() + self._timeout)

    def wait(self) -> dict[int, Message | None]:
        """Wait for replies or timeouts.

        Returns
        -------
        dict of int to Message or None
            Replies by position, at least one; None for nodes that did not reply in time.
        """
        while True:
            looked = time.monotonic()
            got: dict[int, Message | None] = {}
            for reply in self._grid.pull_messages(list(self._calls)):
                call = self._calls.pop(reply.metadata.reply_to_message_id, None)
                if call:
                    got[call.node] = reply
            now = time.monotonic()
            for number, call in list(self._calls.items()):
                if call.until <= now:
                    got[self._calls.pop(number).node] = None
            if got or not self._calls:
                return dict(sorted(got.items()))
            time.sleep(max(_PAUSE, now - looked))  # no more than half of the time is spent looking
