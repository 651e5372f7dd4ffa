"""The mailbox: the last post of each node, and the mail that still has to reach each one.

It is the whole state of a decentralized run. Posts stay packed: the relay hands them on unread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from flwr_decaf.messages import Mail, put_mail
from flwr_decaf.topology import Matrix


class Mailbox:
    """Mail for nodes 0 .. n-1, each delivered exactly once.

    Parameters
    ----------
    n : int
        Number of nodes.
    initial_arrays : ArrayRecord
        What every node starts from; its first mail.
    blank : Mail
        The mail of a node that has nothing to mix, with the rule and the record names.
    """

    def __init__(self, n: int, initial_arrays: ArrayRecord, blank: Mail) -> None:
        self._blank = blank
        self._initial_arrays = initial_arrays
        self._not_started = set(range(n))
        self._pending: dict[int, Mail] = {}
        self.posts: dict[int, Array] = {}

    def lay_into(self, content: RecordDict, node: int, trains: str, travels: str) -> None:
        """Put the node's pending mail, and the phase of the round, into a message to it."""
        if node in self._not_started:
            content[self._blank.arrays_key] = self._initial_arrays
        mail = self._pending.get(node, self._blank)
        put_mail(content, replace(mail, trains=trains, travels=travels))

    def delivered(self, node: int) -> None:
        """Strike out a node's mail: its reply came back, so it holds the mix."""
        self._not_started.discard(node)
        self._pending.pop(node, None)

    def collect(self, posts: Mapping[int, Array], w: Matrix) -> None:
        """Take in a round's posts and address them to the neighbours under W.

        A node without a post in ``posts`` must have no links in ``w``; mail that it has not had
        yet stays pending.
        """
        self.posts = dict(posts)
        for node in posts:
            neighbours = [int(j) for j in np.flatnonzero(w[node]) if j != node]
            self._pending[node] = replace(
                self._blank,
                weights=tuple(float(w[node, j]) for j in (node, *neighbours)),
                posts={j: posts[j] for j in neighbours},
            )
