"""The graph that is passed to a strategy, and the network that it defines on a run's nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr_decaf.config.arguments import check_argument, check_topology_options
from flwr_decaf.topology.conversion import TopologyLike, as_topology
from flwr_decaf.topology.network import Network, build_time_varying_network, describe
from flwr_decaf.topology.weights import check_weights


class GraphOptions:
    """Arguments of ``build_time_varying_network``, checked before the number of nodes is known.

    Parameters
    ----------
    topology, weights, dynamic, options, seed
        As ``topology``, ``weights``, ``dynamic``, ``topology_options`` and ``seed`` of
        ``DecentralizedStrategy``.

    Raises
    ------
    ValueError
        If an argument violates its rule.
    """

    def __init__(
        self,
        topology: TopologyLike,
        weights: str,
        dynamic: str,
        options: Mapping[str, Any] | None,
        seed: int,
    ) -> None:
        self.topology = as_topology(topology)
        self.dynamic = check_argument("dynamic", dynamic, "topology.dynamic")
        check_weights(weights)
        self.weights = weights
        self.options = check_topology_options(options or {})
        self.seed: int = check_argument("seed", seed, "topology.seed")

    def on(self, n: int) -> Network:
        """Build the network on n nodes.

        Raises
        ------
        ValueError
            If there is no such network on n nodes.
        """
        return build_time_varying_network(
            self.topology, n, self.weights, self.seed, self.options, self.dynamic
        )

    def describe(self, network: Network | None) -> list[str]:
        """Describe the graph, and its network if there is one, in a few lines."""
        name = self.topology if isinstance(self.topology, str) else "given"
        lines = [f"├──> Topology: {name}, {self.dynamic}"]
        lines += [f"│\t├── {line}" for line in (describe(network) if network else [])]
        return [*lines, f"│\t└── Weights: {self.weights}"]
