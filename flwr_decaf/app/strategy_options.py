"""The arguments with which a run creates its strategy, from the settings."""

from __future__ import annotations

from typing import Any

from flwr_decaf.config import Config, Failures, Membership, Participation, Posts, part
from flwr_decaf.config.network import network_options
from flwr_decaf.strategies import STRATEGIES, DeCAF, FedAvg, TADLoRA


def strategy_options(config: Config) -> dict[str, Any]:
    """Return the arguments of the strategy that the settings define.

    Parameters
    ----------
    config : Config
        Settings of a run.
    """
    strategy = STRATEGIES[config.strategy]
    options: dict[str, Any] = {
        "evaluation": config.evaluation,
        "failures": part(config, Failures),
        "posts": config.posts,
        "seed": config.topology.seed,
    }
    if issubclass(strategy, FedAvg):
        return options | {
            "posts": Posts(config.fedavg.dtype),
            "num_rounds": config.num_server_rounds,
        }
    options |= {
        "participation": part(config, Participation),
        "membership": part(config.topology, Membership),
        "rounds": config.rounds,
        "robust": config.robust,
        "attack": config.attack,
        "local_head": config.local_head,
    }
    if config.strategy != "local-only":
        options |= network_options(config) | {
            "mixing_steps": config.mixing_steps,
            "weighted_mixing": config.weighted_mixing,
        }
    if strategy is DeCAF:
        options["ranks"] = config.lora.ranks_in_turn
    if strategy is TADLoRA:
        length = config.tad.phase_length
        options["phase_length"] = length if length == "auto" else int(length)
        options["mixes"] = config.tad.mixes
    return options
