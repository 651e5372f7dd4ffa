"""The mailbox: the last post of each node, and the mail that still has to reach each one.

It is the whole state of a decentralized run. Posts stay packed: the relay hands them on unread.

A call that misses its timeout goes on, and Flower stores the state that it ends with, whatever the
node was sent meanwhile. So each message names the version of the state that it starts from, that
of the node's last accepted reply, and the version that it leads to. A node that holds another one
says that it has lost its state. Replies need not name theirs: Flower matches them to messages.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from flwr_decaf.lora import State
from flwr_decaf.messages.checkpoint import Checkpoint, Letter
from flwr_decaf.messages.mail import Mail, put_mail
from flwr_decaf.messages.packing import unpack
from flwr_decaf.messages.shared_posts import sweep
from flwr_decaf.topology.graphs import Matrix


class Mailbox:
    """Mail for nodes 0 .. n-1, each delivered exactly once.

    Parameters
    ----------
    n : int
        Number of nodes.
    initial : State
        What every node starts from.
    blank : Mail
        The mail of a node that has nothing to mix, with the rule and the record names.
    """

    def __init__(self, n: int, initial: State, blank: Mail) -> None:
        self._blank = blank
        self._initial = initial
        self._mail: dict[int, Mail] = {}
        self._undelivered: set[int] = set()
        self._repeated: set[int] = set()  # whose mail goes out a second time
        self._without_state = set(range(n))
        self._version: dict[int, str] = {}  # of the state that each node answered with last
        self._next_version: dict[int, str] = {}  # of the state that its latest message leads to
        self.posts: dict[int, Array] = {}

    def lay_into(self, content: RecordDict, node: int, trained: str, exchanged: str) -> None:
        """Put the node's pending mail, and the phase of the round, into a message to it.

        A node that holds nothing gets its own last post as well, or the initial arrays.
        """
        if node in self._without_state:
            content[self._blank.arrays_key] = ArrayRecord(self.state_of(node))
        mail = self._mail.get(node, self._blank) if node in self._undelivered else self._blank
        # Drawn, not counted: another strategy may have run on the same nodes before.
        self._next_version[node] = secrets.token_hex(8)
        mail = replace(
            mail,
            trained=trained,
            exchanged=exchanged,
            repeated=node in self._repeated,
            base=self._version.get(node, ""),
            version=self._next_version[node],
        )
        put_mail(content, mail)

    def delivered(self, node: int) -> None:
        """Strike out a node's mail: its reply came back, so it holds the mix."""
        self._version[node] = self._next_version.get(node, "")
        self._without_state.discard(node)
        self._undelivered.discard(node)
        self._repeated.discard(node)

    def lost(self, node: int) -> None:
        """Note that a node has lost its state: it is to get back what it posted, and its last mail.

        From these it mixes again what it held. What it trained since its last post is gone.
        """
        self._without_state.add(node)
        if node in self._mail and node not in self._undelivered:
            self._undelivered.add(node)
            self._repeated.add(node)

    def collect(
        self,
        posts: Mapping[int, Array],
        w: Matrix,
        mixed: str = "AB",
        forged: Mapping[int, Array] | None = None,
    ) -> None:
        """Take in a round's posts and address them to the neighbours under W, to mix some factors.

        A node without a post in ``posts`` must have no links in ``w``; mail that it has not had
        yet stays pending. The neighbours of a node in ``forged`` get the post there.
        """
        self.posts |= posts
        sent = {**posts, **(forged or {})}
        self._undelivered |= posts.keys()
        self._repeated -= posts.keys()
        for node in posts:
            neighbours = [int(j) for j in np.flatnonzero(w[node]) if j != node]
            self._mail[node] = replace(
                self._blank,
                weights=tuple(float(w[node, j]) for j in (node, *neighbours)),
                posts={j: sent[j] for j in neighbours},
                mixed=mixed,
            )
        mailed = (post for mail in self._mail.values() for post in mail.posts.values())
        sweep(chain(self.posts.values(), mailed))

    def checkpoint(self, server_round: int) -> Checkpoint:
        """Hand out all that decides what comes after a complete round."""
        mail = {
            node: Letter(mail.weights, mail.posts, mail.mixed) for node, mail in self._mail.items()
        }
        pending = frozenset(self._undelivered - self._repeated)
        return Checkpoint(server_round, dict(self.posts), mail, pending)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint: every node is to get back what it posted, and its last mail."""
        self.posts = dict(checkpoint.posts)
        self._mail = {
            node: replace(self._blank, **letter._asdict())
            for node, letter in checkpoint.mail.items()
        }
        self._undelivered = set(self._mail)
        self._repeated = self._undelivered - checkpoint.pending

    def state_of(self, node: int) -> State:
        """Rebuild a node's state at its last post; what is never exchanged is as it started."""
        if node not in self.posts:
            return self._initial
        return self._initial | unpack(self.posts[node])
