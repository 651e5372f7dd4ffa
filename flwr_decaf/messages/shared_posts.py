"""Posts shared by processes of one machine: a file, and a ticket for it in the messages.

A post is sent to every neighbour, so in a simulation Flower and Ray would pickle it for each of
them. If the environment variable ``POSTS_VARIABLE`` names a folder (``flwr-decaf run`` creates one
for the Ray actors of its machine), a node writes its post to this folder once, messages contain a
ticket for it, and receivers read the file. Otherwise, and always between machines, messages contain
the posts themselves.

A ticket is random and never a path. The relay deletes posts that are no longer needed.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from flwr.app import Array
from safetensors import SafetensorError

POSTS_VARIABLE = "FLWR_DECAF_POSTS"  # environment variable with the folder
STORE_VARIABLE = "FLWR_DECAF_STORE"  # the same for a store of posts, see messages.post_store
KEYS_VARIABLE = "FLWR_DECAF_KEYS"  # the same for the keys of all nodes, if posts are encrypted
TICKET = "safetensors-ticket"  # stype of an Array that contains one
_FORM = re.compile(rb"[0-9a-f]{32}")

_log = logging.getLogger("flwr")


def share(write: Callable[[Path], None]) -> Array | None:
    """Write a packed post to the shared folder, and return its ticket.

    Parameters
    ----------
    write : callable
        Function that writes the post to a new file.

    Returns
    -------
    Array or None
        None if there is no such folder or no space in it; the post itself is then sent.
    """
    folder = os.environ.get(POSTS_VARIABLE)
    if not folder:
        return None
    ticket = secrets.token_hex(16)
    file = Path(folder) / ticket
    try:
        write(file)
    except (OSError, SafetensorError) as error:
        _log.warning("A post cannot be shared in %s: %s", folder, error)
        file.unlink(missing_ok=True)
        return None
    return Array(dtype="uint8", shape=(len(ticket),), stype=TICKET, data=ticket.encode())


def file_of(post: Array) -> Path | None:
    """Return the file of a shared post, or None if the message contains the post itself.

    Raises
    ------
    ValueError
        If the ticket is malformed, or this process has no shared folder.
    """
    if post.stype != TICKET:
        return None
    folder = os.environ.get(POSTS_VARIABLE)
    if not folder or not _FORM.fullmatch(post.data):
        raise ValueError(
            "a shared post needs a well-formed ticket and the folder that it was written to"
        )
    return Path(folder) / post.data.decode()


def is_gone(post: Array) -> bool:
    """Return whether the file of a shared post has been deleted."""
    file = file_of(post)
    return file is not None and not file.exists()


def data_of(post: Array) -> bytes:
    """Read a packed post, shared or not."""
    file = file_of(post)
    return post.data if file is None else file.read_bytes()


def sweep(needed: Iterable[Array], among: Iterable[Array] | None = None) -> None:
    """Delete shared posts that are not needed: all others, or only those among some posts."""
    folder = os.environ.get(POSTS_VARIABLE)
    if folder:
        kept = _tickets(needed)
        names = os.listdir(folder) if among is None else _tickets(among)
        for name in names:
            if name not in kept:
                (Path(folder) / name).unlink(missing_ok=True)


def _tickets(posts: Iterable[Array]) -> set[str]:
    well_formed = (post for post in posts if post.stype == TICKET and _FORM.fullmatch(post.data))
    return {post.data.decode() for post in well_formed}
