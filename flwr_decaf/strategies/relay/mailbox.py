"""The mailbox: the last post of each node, and the mail to be delivered to it.

The mailbox is the whole state of a decentralized run. Posts stay packed: the relay forwards them
unread.

A call that exceeds its timeout continues, and Flower stores its final state even if the node has
received other messages in the meantime. Each message therefore names the version of the state that
it starts from, which is that of the node's last accepted reply, and the version that it leads to. A
node that has another version reports that it has lost its state. Replies need no version, since
Flower matches them to messages.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import cast

from flwr.app import Array, ArrayRecord, RecordDict

from flwr_decaf.lora import State
from flwr_decaf.messages.checkpoint import Checkpoint, Letter
from flwr_decaf.messages.mail import Mail, put_mail
from flwr_decaf.messages.packing import record_of, unpack
from flwr_decaf.messages.quantization import dequantize
from flwr_decaf.messages.records import COPY, POST
from flwr_decaf.rules.ranks import padded_to
from flwr_decaf.strategies.relay.addressing import Addressing, Neighbours
from flwr_decaf.topology.rows import Rows


class Mailbox:
    """Mail for nodes 0 to n - 1, which is delivered exactly once.

    Parameters
    ----------
    starts : sequence of State
        State from which each node starts.
    blank : Mail
        Mail of a node that has nothing to mix, with the rule and the names of records.
    addressing : Addressing
        Who receives what from whom; by default all neighbours under W receive a node's post.
    experiment : str
        Id of the run if posts are encrypted; by default "".
    """

    def __init__(
        self,
        starts: Sequence[State],
        blank: Mail,
        addressing: Addressing | None = None,
        experiment: str = "",
    ) -> None:
        self._blank = blank
        self._experiment = experiment
        self._addressing = addressing or Neighbours()
        self.starts = starts
        self._mail: dict[int, Mail] = {}
        self._undelivered: set[int] = set()
        self._repeated: set[int] = set()  # whose mail is sent a second time
        self._without_state = set(range(len(starts)))
        self._version: dict[int, str] = {}  # of the state that each node answered with last
        self._next_version: dict[int, str] = {}  # of the state that its latest message leads to
        self._rounding: dict[int, int] = {}  # seed of the post that each node sends next
        self.posts: dict[int, Array] = {}
        self.copies: dict[int, Array] = {}

    def lay_into(
        self, content: RecordDict, node: int, trained: str, exchanged: str, rounding: int = 0
    ) -> None:
        """Add the node's pending mail, and the phase of the round, to a message.

        A node without a state also receives its state as of its last post, or the initial arrays;
        if posts are encrypted, both, since only the node can read its post.
        ``rounding`` is the seed with which the node rounds its next post.
        """
        mail = self._mail.get(node, self._blank) if node in self._undelivered else self._blank
        if node in self._without_state:
            content.update(self._arrays_for(node))
            if node not in self.copies:  # the node's state is then what it posted
                mail = replace(mail, rounded=-1)
        # Random, not a counter: another strategy may have run on the same nodes before.
        self._next_version[node] = secrets.token_hex(8)
        self._rounding[node] = rounding
        mail = replace(
            mail,
            trained=trained,
            exchanged=exchanged,
            rounding=rounding,
            recipients=self._addressing.recipients(node),
            repeated=node in self._repeated,
            base=self._version.get(node, ""),
            version=self._next_version[node],
        )
        put_mail(content, mail)

    def delivered(self, node: int) -> None:
        """Mark a node's mail as delivered: the node has replied, so it has the mixed state."""
        self._version[node] = self._next_version.get(node, "")
        self._without_state.discard(node)
        self._undelivered.discard(node)
        self._repeated.discard(node)

    def lost(self, node: int) -> None:
        """Mark the state of a node as lost, so that its last post and last mail are sent again.

        From these, the node mixes the same state again. Training since its last post is lost.
        """
        self._without_state.add(node)
        if node in self._mail and node not in self._undelivered:
            self._undelivered.add(node)
            self._repeated.add(node)

    def adopt(self, node: int, other: int) -> None:
        """Let a newcomer start from another node's model: as of its last post, and with its mail.

        The newcomer mixes what the other node mixes, so both hold the same model before training,
        up to the rounding of a quantized post: the exact copy is for the other node alone.
        """
        self.forget(node)
        if other in self.posts:
            self.posts[node] = self.posts[other]
        if other in self._mail:
            self._mail[node] = self._mail[other]
            self._undelivered.add(node)

    def forget(self, node: int) -> None:
        """Discard the post and the mail of a node that has left."""
        for held in (self.posts, self.copies, self._mail, self._version, self._next_version):
            cast(dict[int, object], held).pop(node, None)
        self._undelivered.discard(node)
        self._repeated.discard(node)
        self._without_state.add(node)

    def collect(
        self,
        posts: Mapping[int, Array],
        rows: Rows,
        mixed: str = "AB",
        sent: Mapping[int, Mapping[int, Array]] | None = None,
        copies: Mapping[int, Array] | None = None,
    ) -> None:
        """Collect posts, and address to their senders the last posts of their neighbours under W.

        In a synchronous round, a node without a post in ``posts`` must have no links in ``rows``.
        Mail that it has not received yet stays pending. ``sent[i][j]`` is what node i sends to j
        instead of its post.
        ``copies`` are exact states of nodes whose posts are quantized; no other node receives them.
        """
        self.posts |= posts
        letters = self._addressing.letters(posts, self.posts, sent or {}, rows, self._mail)
        self.address(posts, letters, mixed, copies)

    def address(
        self,
        posts: Mapping[int, Array],
        letters: Mapping[int, Letter],
        mixed: str = "AB",
        copies: Mapping[int, Array] | None = None,
    ) -> None:
        """Collect posts, and address a letter to each of their senders; see ``collect``."""
        self.posts |= posts
        self.copies = {i: self.copies[i] for i in self.copies.keys() - posts.keys()}
        self.copies |= copies or {}
        self._undelivered |= posts.keys()
        self._repeated -= posts.keys()
        for node, letter in letters.items():
            whole = letter._replace(mixed=mixed, rounded=self._rounding.get(node, -1))
            self._mail[node] = replace(self._blank, **whole._asdict())

    @property
    def held(self) -> Iterator[Array]:
        """All posts and copies that may still be sent."""
        mailed = (post for mail in self._mail.values() for post in mail.posts.values())
        return chain(self.posts.values(), self.copies.values(), mailed)

    def checkpoint(self, server_round: int) -> Checkpoint:
        """Return everything that determines the run after a complete round."""
        mail = {
            node: Letter(*(getattr(mail, name) for name in Letter._fields))
            for node, mail in self._mail.items()
        }
        pending = frozenset(self._undelivered - self._repeated)
        posts, copies = dict(self.posts), dict(self.copies)
        return Checkpoint(server_round, posts, mail, pending, copies, self._experiment)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore a checkpoint: every node receives its last post and its last mail again."""
        self.posts, self.copies = dict(checkpoint.posts), dict(checkpoint.copies)
        self._mail = {
            node: replace(self._blank, **letter._asdict())
            for node, letter in checkpoint.mail.items()
        }
        self._undelivered = set(self._mail)
        self._repeated = self._undelivered - checkpoint.pending

    def _arrays_for(self, node: int) -> dict[str, ArrayRecord]:
        """Return the records from which a node restores its state as of its last post."""
        if not self._experiment:
            return {self._blank.arrays_key: ArrayRecord(self.state_of(node))}
        arrays = {self._blank.arrays_key: ArrayRecord(self.starts[node])}
        if node in self.copies:
            return {**arrays, COPY: record_of(self.copies[node])}
        return {**arrays, POST: record_of(self.posts[node])} if node in self.posts else arrays

    def state_of(self, node: int) -> State:
        """Rebuild a node's state as of its last post; tensors never exchanged are the initial ones.

        If posts are quantized, the state is exact if the node sent a copy of it.
        """
        if node in self.copies:
            return self.starts[node] | unpack(self.copies[node])
        start = self.starts[node]
        return start | padded_to(start, self.posted_by(node))

    def posted_by(self, node: int) -> State:
        """Return a node's last post as its neighbours see it; empty before the first."""
        if node not in self.posts:
            return {}
        return dequantize(unpack(self.posts[node]), self._blank.dtype, like=self.starts[node])
