"""The client side: the mod that mixes, and local training and evaluation.

Importing this package imports only flwr, torch, numpy, networkx and safetensors. The modules that
train this project's models are imported when a node first needs them.
"""

from flwr_decaf.clients.freezing import freeze_factors
from flwr_decaf.clients.peer_mixing import peer_mixing, peer_mixing_with

__all__ = ["freeze_factors", "peer_mixing", "peer_mixing_with"]
