"""One run: one strategy from the evaluation at the start to the adapters in its run folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from flwr_decaf.clients.adapter import initialize_adapter, set_adapter
from flwr_decaf.clients.tasks import load_task
from flwr_decaf.config import Config, Value
from flwr_decaf.data.partitions import partition_rows
from flwr_decaf.lora import State
from flwr_decaf.mixing_matrix import build_network, lambda2
from flwr_decaf.run_folder import RunFolder
from flwr_decaf.strategies import STRATEGIES, FedAvg, Router
from flwr_decaf.tensorboard import event_writer

_log = logging.getLogger("flwr")


def check(config: Config, n: int) -> None:
    """Refuse a run that cannot be, by trying all that is tried before training.

    Raises
    ------
    ValueError
        In one line: a model, data set or partition that cannot be had on n nodes, LoRA targets
        that match nothing, a graph that does not exist.
    """
    load_task(config.model, config.lora, config.data)
    partition_rows(config.data, n, config.seed)
    build_network(n=n, **network_options(config))


def run_once(
    grid: Grid, nodes: list[int], config: Config, chosen: Mapping[str, Value], folder: RunFolder
) -> None:
    """Run one strategy on the nodes, and leave what came of it in a run folder.

    Parameters
    ----------
    grid : Grid
        Flower's connection to the nodes.
    nodes : list of int
        Their ids, by position.
    config : Config
        Of this run, with one strategy.
    chosen : mapping
        Settings in which it departs from the run-config that the nodes have; sent to them.
    folder : RunFolder
        Created, with status "running".
    """
    task = load_task(config.model, config.lora, config.data)
    initial = initialize_adapter(task.model, config.seed)
    settings = ConfigRecord({"settings": json.dumps(dict(chosen))})
    strategy = build_strategy(config, folder)
    if config.tensorboard:
        folder.listeners.append(event_writer(folder.path / "tensorboard"))
    folder.update(labels=task.labels, network=_describe_network(config, strategy, len(nodes)))
    _evaluate_start(grid, nodes, initial, settings, folder)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(initial),
        num_rounds=config.num_server_rounds,
        train_config=settings,
        evaluate_config=settings,
    )
    for name, state in _final_adapters(strategy, grid, result).items():
        set_adapter(task.model, state)
        folder.save(name, task.model.save_pretrained)
    _check_complete(config, folder)


def build_strategy(config: Config, folder: RunFolder) -> Strategy:
    """Make the strategy that the settings name, with the run folder as its recorder."""
    common: dict[str, Any] = {
        "evaluate_every": config.evaluate_every,
        "train_metrics_aggr_fn": folder.recorder("train"),
        "evaluate_metrics_aggr_fn": folder.recorder("evaluate"),
    }
    strategy = STRATEGIES[config.strategy]
    if issubclass(strategy, FedAvg):
        return strategy(num_rounds=config.num_server_rounds, **common)
    if config.strategy != "local-only":
        common |= network_options(config)
    return strategy(**common)


def network_options(config: Config) -> dict[str, Any]:
    """Get the arguments of ``build_network`` and of a ``Router`` that describe the network."""
    topology = config.topology
    return {
        "topology": topology.file or topology.name,
        "weights": topology.weights,
        "seed": topology.seed,
        "topology_options": {
            "edge_probability": topology.edge_probability,
            "degree": topology.degree,
        },
    }


def _describe_network(config: Config, strategy: Strategy, n: int) -> dict[str, Any]:
    if not isinstance(strategy, Router):
        return {"nodes": n}
    options = {**network_options(config), "topology": strategy.topology}
    w = build_network(n=n, **options)
    return {"nodes": n, "lambda2": lambda2(w), "mixing-matrix": w.tolist()}


def _evaluate_start(
    grid: Grid, nodes: list[int], initial: State, settings: ConfigRecord, folder: RunFolder
) -> None:
    """Score the initial adapter on every node, as round 0, whatever the strategy."""
    config = ConfigRecord({**settings, "server-round": 0})
    content = RecordDict({"arrays": ArrayRecord(initial), "config": config})
    kind = MessageType.EVALUATE
    replies = list(
        grid.send_and_receive(
            [Message(content=content, message_type=kind, dst_node_id=node) for node in nodes]
        )
    )
    for reply in replies:
        if reply.has_error():
            raise RuntimeError(f"a node could not be evaluated at the start: {reply.error.reason}")
    folder.recorder("evaluate")([reply.content for reply in replies], "num-examples")


def _final_adapters(strategy: Strategy, grid: Grid, result: Result) -> dict[str, State]:
    if isinstance(strategy, Router):
        return {f"node-{node}": state for node, state in strategy.collect(grid).items()}
    return {"global": dict(result.arrays.to_torch_state_dict())}


def _check_complete(config: Config, folder: RunFolder) -> None:
    # Flower's own strategies go on without replies and end "successfully"; a run must not.
    trained = {line["round"] for line in folder.metrics if line["phase"] == "train"}
    missing = set(range(1, config.num_server_rounds + 1)) - trained
    if missing:
        raise RuntimeError(f"no node trained in round {min(missing)}; see the log for the cause")
