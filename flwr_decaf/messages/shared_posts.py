"""Posts that processes of one machine share: a file, and a ticket for it in the messages.

A post goes to every neighbour, so in a simulation Flower and Ray would pickle it again for each.
Where ``POSTS`` names a folder in the environment (``flwr-decaf run`` makes one for Ray actors of
this machine), a node lays its post there once, and messages carry its ticket; whoever needs the
post reads the file. Elsewhere, between machines above all, posts travel as they are.

A ticket is drawn at random and is never a path. The relay sweeps away what nobody needs any more.
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

POSTS = "FLWR_DECAF_POSTS"  # environment variable with the folder
TICKET = "safetensors-ticket"  # stype of an Array that holds one
_FORM = re.compile(rb"[0-9a-f]{32}")

_log = logging.getLogger("flwr")


def share(write: Callable[[Path], None]) -> Array | None:
    """Lay a packed post into the shared folder, and get its ticket.

    Parameters
    ----------
    write : callable
        Writes the post to a file that is not there yet.

    Returns
    -------
    Array or None
        None where there is no such folder, or no room in it: then the post is sent as it is.
    """
    folder = os.environ.get(POSTS)
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
    """Find a shared post's file; None for a post that is sent as it is.

    Raises
    ------
    ValueError
        If the ticket is none, or there is no folder here.
    """
    if post.stype != TICKET:
        return None
    folder = os.environ.get(POSTS)
    if not folder or not _FORM.fullmatch(post.data):
        raise ValueError("a shared post needs a ticket, and the folder that it was laid into")
    return Path(folder) / post.data.decode()


def is_gone(post: Array) -> bool:
    """Tell whether a shared post has been swept away."""
    file = file_of(post)
    return file is not None and not file.exists()


def data_of(post: Array) -> bytes:
    """Read a packed post, shared or not."""
    file = file_of(post)
    return post.data if file is None else file.read_bytes()


def sweep(needed: Iterable[Array]) -> None:
    """Delete all shared posts but these."""
    folder = os.environ.get(POSTS)
    if folder:
        kept = {post.data.decode() for post in needed if post.stype == TICKET}
        for file in Path(folder).iterdir():
            if file.name not in kept:
                file.unlink(missing_ok=True)
