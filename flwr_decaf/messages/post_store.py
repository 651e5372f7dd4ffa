"""A store of posts: a shared folder, or an object store, instead of the messages.

A post is written once, under the name ``<box>-<digest>``: the box is random and names the run, the
digest is the post's SHA-256. Messages contain its ticket, with box, digest and length. A ticket is
never a path: where the store is, each process knows from its own node-config or settings, and
credentials are known to the store's own package (environment, configuration files) alone.

What is read is checked against the ticket. A post that is missing, damaged or late stays a ticket,
which no one can mix; one that cannot be written travels in the message.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Array

from flwr_decaf.atomic import replacing
from flwr_decaf.messages.deadline import TOO_LATE, all_within
from flwr_decaf.messages.packing import STORED, packed
from flwr_decaf.text import first_line

_BOX = re.compile(r"[0-9a-f]{16}")
_TICKET = re.compile(rb"([0-9a-f]{16})-([0-9a-f]{64}) ([0-9]{1,15})")

_log = logging.getLogger("flwr")


def new_box() -> str:
    """Draw the name under which the posts of one run are stored."""
    return secrets.token_hex(8)


class PostStore:
    """The posts of one run in a store.

    Parameters
    ----------
    url : str
        Root of the store: a URL of fsspec, such as ``s3://bucket/folder``, or an absolute path.
    box : str
        Result of ``new_box``.
    seconds : float
        Time limit of each call, whatever the number of posts.

    Raises
    ------
    ValueError
        If the box is malformed, or the package for such URLs is not installed.
    """

    def __init__(self, url: str, box: str, seconds: float) -> None:
        if not _BOX.fullmatch(box):
            raise ValueError("a box of posts must be 16 hexadecimal digits; got another name")
        self._fs, self._root = opened(url)
        self.box, self.seconds = box, seconds

    def put(self, posts: Sequence[Array]) -> list[Array]:
        """Write packed posts, and return their tickets; a post that cannot be written stays."""
        tickets = [self.ticket_of(post) for post in posts]
        done = self._each(self._write, zip(tickets, posts, strict=True))
        return [
            post if _is_failure("written", result) else ticket
            for post, ticket, result in zip(posts, tickets, done, strict=True)
        ]

    def get(self, tickets: Sequence[Array]) -> list[Array]:
        """Read posts by their tickets; a ticket whose post cannot be read stays."""
        done = self._each(self._read, ((ticket,) for ticket in tickets))
        return [
            ticket if _is_failure("read", result) else packed(result)
            for ticket, result in zip(tickets, done, strict=True)
        ]

    def delete(self, tickets: Iterable[Array]) -> None:
        """Delete posts; one that cannot be deleted is logged."""
        for result in self._each(self._remove, ((ticket,) for ticket in tickets)):
            _is_failure("deleted", result)

    def clear(self) -> None:
        """Delete all posts of the run."""
        (result,) = self._each(self._remove_all, [()])
        _is_failure("deleted", result)

    def probe(self) -> None:
        """Write, read and delete a post.

        Raises
        ------
        ValueError
            If one of them fails; the log has the cause.
        """
        probe = packed(secrets.token_bytes(16))
        tickets = self.put([probe])
        if self.get([t for t in tickets if t.stype == STORED]) != [probe]:
            raise ValueError(
                "posts.store must be a store that this process can write to and read from; it "
                "cannot; check the store, its credentials and the log, or leave posts.store empty"
            )
        self.delete(tickets)

    def ticket_of(self, post: Array) -> Array:
        """Return the ticket that a packed post has in this box, stored or not."""
        text = f"{self.box}-{hashlib.sha256(post.data).hexdigest()} {len(post.data)}".encode()
        return Array(dtype="uint8", shape=(len(text),), stype=STORED, data=text)

    def _each(self, work: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
        jobs = [lambda given=given: work(*given) for given in arguments]
        return all_within(self.seconds, jobs)

    def _found(self, ticket: Array) -> tuple[str, str, int]:
        """Return the path, the digest and the length that a ticket stands for."""
        found = _TICKET.fullmatch(ticket.data)
        if not found or found[1].decode() != self.box:
            raise ValueError("its ticket is malformed, or of another run")
        digest = found[2].decode()
        return f"{self._root}/{self.box}-{digest}", digest, int(found[3])

    def _write(self, ticket: Array, post: Array) -> None:
        path, _, _ = self._found(ticket)
        if _is_local(self._fs):  # object stores show an object once it is complete
            with replacing(Path(path)) as unfinished:
                unfinished.write_bytes(post.data)
        else:
            self._fs.pipe_file(path, post.data)

    def _read(self, ticket: Array) -> bytes:
        path, digest, length = self._found(ticket)
        data: bytes = self._fs.cat_file(path, start=0, end=length)
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError("it is damaged: its digest is not that of its ticket")
        return data

    def _remove(self, ticket: Array) -> None:
        self._fs.rm_file(self._found(ticket)[0])

    def _remove_all(self) -> None:
        self._fs.invalidate_cache()
        for path in self._fs.glob(f"{glob.escape(self._root)}/{self.box}-*"):
            self._fs.rm_file(path)


def opened(url: str) -> tuple[Any, str]:
    """Open the file system of a URL of fsspec, and return it with the path of the root.

    Raises
    ------
    ValueError
        If the package for such URLs is not installed.
    """
    import fsspec  # imported on demand: posts usually travel in messages

    try:
        system, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        scheme = url.partition("://")[0]
        raise ValueError(
            f"posts.store must have a scheme whose package is installed; got {scheme!r} ({error}); "
            "for s3 run pip install 'flwr-decaf[s3]'"
        ) from error
    if _is_local(system) and not Path(root).is_dir():
        raise ValueError(
            f"posts.store must be an existing folder, if it is a path; {root} is not a folder; "
            "mount or create it"
        )
    return system, root.rstrip("/")


def _is_local(system: Any) -> bool:
    return "file" in ([system.protocol] if isinstance(system.protocol, str) else system.protocol)


def _is_failure(done: str, result: Any) -> bool:
    """Log what became of a post if it is an exception."""
    if result is TOO_LATE:
        _log.warning("A post cannot be %s in time; see posts.store-timeout", done)
    elif isinstance(result, Exception):
        cause = f"{type(result).__name__}: {first_line(result)}"
        _log.warning("A post cannot be %s: %s", done, cause)
    return isinstance(result, Exception)
