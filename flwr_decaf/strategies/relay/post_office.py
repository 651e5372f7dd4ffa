"""The relay's post office: whether posts travel in messages, or in a store with tickets for them.

The rest of the relay holds the posts themselves in either case. With a store, it reads each post
once, when the node has replied with its ticket, and sends the same ticket to the neighbours.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from flwr.app import Array, RecordDict

from flwr_decaf.config import Posts
from flwr_decaf.messages.packing import PACKED, SEALED, STORED, is_packed, pack_record
from flwr_decaf.messages.post_store import PostStore, new_box
from flwr_decaf.messages.shared_posts import sweep
from flwr_decaf.messages.tickets import deposit, redeem

_log = logging.getLogger("flwr")


class PostOffice(Protocol):
    """How posts travel between the relay and the nodes.

    Attributes
    ----------
    box : str
        Name under which the posts of the run are stored; empty if they are not.
    """

    box: str

    def deposit(self, content: RecordDict) -> None:
        """Prepare the content of a message for its way to a node."""

    def redeem(self, contents: Mapping[int, RecordDict]) -> None:
        """Restore the contents of replies, by position of the node."""

    def sweep(self, needed: Iterable[Array], under_way: bool = False) -> None:
        """Delete all posts of the run except these and, if replies are under way, those in them."""

    def close(self) -> None:
        """Delete all posts of the run."""


class InMessages:
    """Posts travel in the messages, or as files that the processes of one machine share."""

    box = ""

    def __init__(self) -> None:
        self._needed: list[Array] = []  # at the last sweep

    def deposit(self, content: RecordDict) -> None:
        """Leave the content as it is."""

    def redeem(self, contents: Mapping[int, RecordDict]) -> None:
        """Leave the contents as they are."""

    def sweep(self, needed: Iterable[Array], under_way: bool = False) -> None:
        """Delete all shared files except these; if replies are under way, only those needed before.

        The file of a post exists before the reply with its ticket arrives.
        """
        kept = list(needed)
        sweep(kept, self._needed if under_way else None)
        self._needed = kept

    def close(self) -> None:
        """Leave the shared files to the process that has created their folder."""


class InStore:
    """Posts travel in a store, and messages contain their tickets.

    They are deleted once the relay no longer holds them, and at the latest when the process ends.

    Parameters
    ----------
    store : PostStore
        The posts of the run.
    """

    def __init__(self, store: PostStore) -> None:
        self.box = store.box
        self._store = store
        self._tickets: dict[bytes, Array] = {}  # a post itself if it cannot be written
        # By the id of a post's data, which records share; the data keep their id in use.
        self._keys: dict[int, tuple[bytes, bytes]] = {}
        self._at_exit = weakref.finalize(self, store.clear)

    def deposit(self, content: RecordDict) -> None:
        """Replace arrays by tickets; what is not stored yet, such as the initial state, is."""
        for name, record in content.array_records.items():
            if not is_packed(record):
                content[name] = pack_record(dict(record.to_torch_state_dict()))
        deposit([content], self._put)

    def redeem(self, contents: Mapping[int, RecordDict]) -> None:
        """Replace tickets by the posts; those that cannot be read stay."""
        for node, content in contents.items():
            arrays = (a for record in content.array_records.values() for a in record.values())
            if any(array.stype in (PACKED, SEALED) for array in arrays):
                _log.warning("Node %d posts in its message: it cannot write to its store", node)
        redeem(contents.values(), self._get)

    def sweep(self, needed: Iterable[Array], under_way: bool = False) -> None:
        """Delete the posts that are neither among these nor in a later message."""
        kept = {id(post.data) for post in needed}
        self._keys = {number: entry for number, entry in self._keys.items() if number in kept}
        keys = {key for _, key in self._keys.values()}
        gone = [self._tickets.pop(key) for key in self._tickets.keys() - keys]
        self._store.delete([ticket for ticket in gone if ticket.stype == STORED])

    def close(self) -> None:
        """Delete all posts of the run, and those of nodes whose replies never arrived."""
        self._tickets, self._keys = {}, {}
        self._at_exit.detach()
        self._store.clear()

    def _put(self, posts: Sequence[Array]) -> list[Array]:
        keys = [self._key_of(post) for post in posts]
        new = {key: post for key, post in zip(keys, posts, strict=True) if key not in self._tickets}
        self._tickets |= zip(new, self._store.put(list(new.values())), strict=True)
        return [self._tickets[key] for key in keys]

    def _get(self, tickets: Sequence[Array]) -> list[Array]:
        posts = self._store.get(tickets)
        for ticket, post in zip(tickets, posts, strict=True):
            if post is not ticket:
                self._tickets[ticket.data] = ticket
                self._keys[id(post.data)] = post.data, ticket.data
        return posts

    def _key_of(self, post: Array) -> bytes:
        if id(post.data) not in self._keys:
            self._keys[id(post.data)] = post.data, self._store.ticket_of(post).data
        return self._keys[id(post.data)][1]


def open_office(posts: Posts) -> PostOffice:
    """Open the post office of a run.

    Raises
    ------
    ValueError
        If the store cannot be written to and read from.
    """
    if not posts.store:
        return InMessages()
    store = PostStore(posts.store, new_box(), posts.store_timeout)
    store.probe()
    return InStore(store)
