"""What a node answers at the roll call: its place, and what its own node-config provides."""

from __future__ import annotations

from typing import cast

from flwr.app import ConfigRecord, Context

from flwr_decaf.clients.own_adapter import check_own_adapter
from flwr_decaf.clients.own_keys import discloses_model, identity_of
from flwr_decaf.clients.own_store import root_of_store
from flwr_decaf.data.own_files import has_own_files
from flwr_decaf.messages import records


def presence_of(context: Context) -> ConfigRecord:
    """Return a node's answer; paths and URLs stay at the node.

    Raises
    ------
    ValueError
        If the node's keys or its path for the final model cannot be used.
    """
    check_own_adapter(context.node_config)
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
        presence[records.DISCLOSES] = discloses_model(context.node_config)
    return presence
