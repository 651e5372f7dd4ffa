"""The client's side: the mod that mixes, and what trains and evaluates.

Importing this package loads flwr, torch, numpy, networkx and safetensors alone; what trains the
models of this project is in modules of its own, which are imported when a node first needs them.
"""

from flwr_decaf.clients.freezing import freeze_factors
from flwr_decaf.clients.peer_mixing import peer_mixing, peer_mixing_with

__all__ = ["freeze_factors", "peer_mixing", "peer_mixing_with"]
