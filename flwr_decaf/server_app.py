"""The ServerApp: settings in, a strategy run to its end, a run folder out."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result, Strategy

from flwr_decaf.clients.adapter import get_adapter, set_adapter
from flwr_decaf.clients.tasks import load_task
from flwr_decaf.config import Config, flatten, parse_config
from flwr_decaf.data.partitions import partition_rows
from flwr_decaf.lora import State
from flwr_decaf.mixing_matrix import build_network, lambda2
from flwr_decaf.run_folder import RunFolder
from flwr_decaf.strategies import STRATEGIES, FedAvg, Router
from flwr_decaf.strategies.roll_call import roll_call

_log = logging.getLogger("flwr")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one strategy; the run folder tells how it went, even if it fails."""
    config = parse_config(context.run_config)
    folder = RunFolder.create(_folder_of(config), flatten(config))
    _log.info("Run folder: %s", folder.path)
    try:
        _run(grid, config, folder)
    except BaseException as error:
        folder.finish("failed", error=f"{type(error).__name__}: {error}")
        raise
    folder.finish("finished")
    _log.info("Run folder: %s", folder.path)


def _run(grid: Grid, config: Config, folder: RunFolder) -> None:
    task = load_task(config.model, config.lora, config.data, config.seed)
    nodes = roll_call(grid)
    partition_rows(config.data, len(nodes), config.seed)  # refuses what cannot be split
    folder.update(network=_describe_network(config, len(nodes)))
    initial = {name: tensor.clone() for name, tensor in get_adapter(task.model).items()}
    strategy = build_strategy(config, folder)
    _evaluate_start(grid, nodes, initial, folder)
    result = strategy.start(
        grid=grid, initial_arrays=ArrayRecord(initial), num_rounds=config.num_server_rounds
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
        return strategy(
            num_rounds=config.num_server_rounds, min_train_nodes=1, min_evaluate_nodes=1,
            min_available_nodes=1, **common,
        )  # fmt: skip
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


def _describe_network(config: Config, n: int) -> dict[str, Any]:
    w = build_network(n=n, **network_options(config))
    return {"nodes": n, "lambda2": lambda2(w), "mixing-matrix": w.tolist()}


def _evaluate_start(grid: Grid, nodes: list[int], initial: State, folder: RunFolder) -> None:
    """Score the initial adapter on every node, as round 0, whatever the strategy."""
    content = RecordDict(
        {"arrays": ArrayRecord(initial), "config": ConfigRecord({"server-round": 0})}
    )
    replies = list(
        grid.send_and_receive(
            [
                Message(content=content, message_type=MessageType.EVALUATE, dst_node_id=node_id)
                for node_id in nodes
            ]
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


def _folder_of(config: Config) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    name = config.run_name or f"{stamp}-{config.strategy}-{config.topology.name}-s{config.seed}"
    if Path(name).name != name:
        raise ValueError(f"run-name must be a plain name; got {name!r}; leave out slashes and dots")
    return Path(config.output_dir).resolve() / name
