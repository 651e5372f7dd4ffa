"""The client's side: the mod that mixes, and what trains and evaluates.

Imports stay light: models and data are loaded by the tasks, when a node first needs them.
"""

from flwr_decaf.clients.adapter import freeze_factors
from flwr_decaf.clients.peer_mixing import peer_mixing, peer_mixing_with

__all__ = ["freeze_factors", "peer_mixing", "peer_mixing_with"]
