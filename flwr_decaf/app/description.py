"""What run.json contains in addition to the settings of a run: its network and frozen layers."""

from __future__ import annotations

from typing import Any

from flwr.serverapp.strategy import Strategy

from flwr_decaf.clients.prefixes import describe
from flwr_decaf.clients.tasks.contract import Task
from flwr_decaf.config import Config
from flwr_decaf.strategies import DecentralizedStrategy
from flwr_decaf.topology.mixing_matrix import lambda2, links_of
from flwr_decaf.topology.mixing_steps import posts_per_round, steps_on


def describe_run(config: Config, task: Task, strategy: Strategy, n: int) -> dict[str, Any]:
    """Describe a run on n nodes.

    Returns
    -------
    dict
        ``network``: the number of nodes and, without a server, the edges and their mixing
        weights, lambda2, rho, and the number of posts per round; ``frozen-layers``: see
        ``clients.prefixes.describe``.
    """
    frozen = describe(task, config.model, config.data)
    return {"network": _network(strategy, n), "frozen-layers": frozen}


def _network(strategy: Strategy, n: int) -> dict[str, Any]:
    if not isinstance(strategy, DecentralizedStrategy):
        return {"nodes": n}
    network = strategy.network_on(n)
    edges, weights = links_of(network.base)
    return {
        "nodes": n,
        "lambda2": lambda2(network.base),
        "rho": network.rho.value,
        "rho-standard-error": network.rho.standard_error,
        "posts-per-round": posts_per_round(network, steps_on(network, strategy.mixing_steps)),
        "links": [[*ends, w] for ends, w in zip(edges.tolist(), weights.tolist(), strict=True)],
    }
