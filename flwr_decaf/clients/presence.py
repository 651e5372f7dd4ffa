"""What a node answers at the roll call: its place, and what its own node-config provides."""

from __future__ import annotations

from typing import cast

from flwr.app import ConfigRecord, Context

from flwr_decaf.clients.own_keys import identity_of
from flwr_decaf.clients.own_store import root_of_store
from flwr_decaf.data.own_files import has_own_files
from flwr_decaf.messages import records


def presence_of(context: Context) -> ConfigRecord:
    """Return a node's answer; paths and URLs stay at the node.

    Raises
    ------
    ValueError
        If the node's keys cannot be used: see ``own_keys.identity_of``.
    """
    known = ("partition-id", "num-partitions")
    presence = ConfigRecord(
        {key: cast(int, value) for key, value in context.node_config.items() if key in known}
    )
    if has_own_files(context.node_config):
        presence[records.OWN_ROWS] = True
    if root_of_store(context.node_config):
        presence[records.OWN_STORE] = True
    if identity := identity_of(context.node_config):
        presence[records.OWN_KEYS] = identity.announcement
    return presence
