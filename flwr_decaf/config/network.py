"""The network that the settings define."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr_decaf.config.sections import Config
from flwr_decaf.topology.mixing_steps import steps_on
from flwr_decaf.topology.network import Network, build_time_varying_network
from flwr_decaf.topology.phase_length import phase_length
from flwr_decaf.topology.time_varying import FINITE_TIME
from flwr_decaf.topology.trees import tree_network

_WITHOUT_GRAPH = ("fedavg", "local-only", "centralized")


def network_options(config: Config) -> dict[str, Any]:
    """Return the network's arguments for a strategy and for ``build_time_varying_network``."""
    topology = config.topology
    return {
        "topology": topology.file or topology.name,
        "weights": None if topology.weights == "auto" else topology.weights,
        "dynamic": topology.dynamic,
        "seed": topology.seed,
        "topology_options": {
            "edge_probability": topology.edge_probability,
            "degree": topology.degree,
            "activation_probability": topology.activation_probability,
            "peers": topology.peers,
        },
    }


def network_of(config: Config, n: int, own_weights: str = "metropolis") -> Network:
    """Build the network of a run on n nodes: a tree for "relay-sum", no edges for "local-only".

    Parameters
    ----------
    config : Config
        Settings of the run.
    n : int
        Number of nodes.
    own_weights : str
        The strategy's own weight rule, used if the settings do not name one; by default
        "metropolis".

    Raises
    ------
    ValueError
        If there is no such network on n nodes.
    """
    options = network_options(config)
    options["weights"] = options["weights"] or own_weights
    if config.strategy == "local-only":
        options |= {"topology": "isolated", "dynamic": "static"}
    network = build_time_varying_network(n=n, **options)
    if config.strategy == "relay-sum":
        network = tree_network(network)
    if config.strategy == "tad-lora" and config.tad.phase_length == "auto":
        phase_length(network)  # raises here rather than in the first round
    steps_on(network, config.mixing_steps)  # likewise
    return network


def graph_in_words(settings: Mapping[str, Any]) -> str:
    """Name the graphs of a run, given its settings by key; empty if its strategy uses none.

    Examples
    --------
    >>> graph_in_words({"strategy": "decaf", "topology.name": "ring"})
    'ring'
    >>> graph_in_words({"strategy": "decaf", "topology.dynamic": "base", "topology.name": "ring"})
    'base'
    """
    if settings.get("strategy") in _WITHOUT_GRAPH:
        return ""
    dynamic = str(settings.get("topology.dynamic", "static"))
    if dynamic in FINITE_TIME:
        return dynamic
    # The path of a file on this machine means nothing to a reader.
    name = Path(settings.get("topology.file") or settings["topology.name"]).name
    return name if dynamic == "static" else f"{name}, {dynamic}"
