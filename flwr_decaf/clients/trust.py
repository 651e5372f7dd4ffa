"""Whose keys a node accepts: those that its operator lists or, on request, the first ones it sees.

The relay passes announcements on, and could replace them by its own; a node therefore compares each
with its file of allowed signers. With ``posts-trust="first-use"``, a node that the file does not
list is accepted with its first key, and with no other one until the SuperNode restarts.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import cast

from flwr.app import ConfigRecord, Context

from flwr_decaf.clients.own_keys import Identity
from flwr_decaf.messages.announcement import PublicKeys, principal_of, read_announcement
from flwr_decaf.messages.records import SIGNERS

_log = logging.getLogger("flwr")


def known_signers(identity: Identity, context: Context, position: int) -> Collection[bytes]:
    """Return the Ed25519 keys that a node accepts for a position; empty if it knows none."""
    principal = principal_of(position)
    if principal in identity.signers:
        return identity.signers[principal]
    met = cast(ConfigRecord, context.state.get(SIGNERS, ConfigRecord()))
    return [cast(bytes, met[principal])] if principal in met else []


def accepted_keys(
    identity: Identity, context: Context, position: int, announcement: bytes
) -> PublicKeys:
    """Verify an announcement, and return its keys.

    Raises
    ------
    ValueError
        If it is malformed, or its Ed25519 key is not accepted for this position.
    """
    keys, principal = read_announcement(announcement, position), principal_of(position)
    known = known_signers(identity, context, position)
    if not known and identity.first_use:
        _log.warning("The key of %s is trusted on first use (posts-trust)", principal)
        met = cast(ConfigRecord, context.state.get(SIGNERS, ConfigRecord()))
        context.state[SIGNERS] = ConfigRecord({**met, principal: keys.signing})
    elif keys.signing not in known:
        listed = "lists another key" if known else "lists no key"
        raise ValueError(f"this node's file of allowed signers {listed} for {principal}")
    return keys
