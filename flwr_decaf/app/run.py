"""A single run: one strategy, from the initial evaluation to the adapters in the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from flwr_decaf.app.description import describe_run
from flwr_decaf.app.nodes import Nodes
from flwr_decaf.app.row_reports import refused_rows
from flwr_decaf.app.strategy_options import strategy_options
from flwr_decaf.clients.loading import load_task, load_test
from flwr_decaf.clients.models.adapter import initialize_adapter, set_adapter
from flwr_decaf.clients.models.saving import save_model
from flwr_decaf.clients.tasks.contract import Task
from flwr_decaf.clients.training import evaluate_rows
from flwr_decaf.config import Config, Value
from flwr_decaf.data.partitions import describe_split
from flwr_decaf.lora import State
from flwr_decaf.messages.checkpoint import Checkpoint, save_checkpoint
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.model_card import last_evaluations, model_card
from flwr_decaf.strategies import STRATEGIES, DecentralizedStrategy, FedAvg
from flwr_decaf.strategies.relay.failures import check_failures
from flwr_decaf.strategies.relay.open_roster import OnJoin
from flwr_decaf.strategies.relay.replies import sort_replies
from flwr_decaf.strategies.relay.resuming import Resume, forget
from flwr_decaf.strategies.relay.schedules import is_due


def run_once(
    grid: Grid,
    nodes: Nodes,
    config: Config,
    chosen: Mapping[str, Value],
    folder: RunFolder,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Run one strategy on the nodes, and write its results to a run folder.

    Parameters
    ----------
    grid : Grid
        Flower's connection to the nodes.
    nodes : Nodes
        The nodes that are there.
    config : Config
        Settings of this run, with one strategy.
    chosen : mapping
        Settings that differ from the run-config of the nodes; they are sent with each message.
    folder : RunFolder
        An existing folder with status "running".
    checkpoint : Checkpoint, optional
        Checkpoint to resume from; by default the run starts at round 1.

    Raises
    ------
    RuntimeError
        If nodes fail at the start or the end, or no node trained in some round.
    """
    ids, n = nodes
    task = load_task(config.model, config.lora, config.data)
    initial = initialize_adapter(task.model, config.seed)
    settings = ConfigRecord({"settings": json.dumps(dict(chosen))})
    on_join = partial(refused_rows, chosen, config.round_timeout, "own-rows" in folder.run)
    strategy = build_strategy(config, folder, checkpoint, ids, on_join)
    train_settings = ConfigRecord({**settings})
    _send_back_scaling(folder, train_settings)
    folder.update(labels=task.labels, **describe_run(config, task, strategy, n))
    if config.data.name and "own-rows" not in folder.run:
        folder.update(split=asdict(describe_split(config.data, n, config.seed)))
    if checkpoint is None:
        evaluated = {0: ids[0]} if config.strategy == "centralized" else ids
        _evaluate_start(grid, evaluated, initial, settings, folder, config.round_timeout)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(initial),
        num_rounds=config.num_server_rounds,
        timeout=config.round_timeout,
        train_config=train_settings,
        evaluate_config=settings,
        evaluate_fn=_average_scorer(task, config, folder) if config.evaluate_average else None,
    )
    _save_adapters(_final_adapters(strategy, grid, result, config, n), task, config, folder, n)
    set_adapter(task.model, initial)  # the next run may need another rank than the last node's
    _check_complete(config, folder)


def _send_back_scaling(folder: RunFolder, train_settings: ConfigRecord) -> None:
    """Add the state of fp16 loss scaling that the nodes last reported to every train message.

    This state decides which steps are skipped, so it is kept with the run rather than in a node's
    memory. It is then available to resumed runs, restarted nodes, and whichever node "centralized"
    selects.
    """
    known: dict[str, list[float]] = {}

    def note(lines: Sequence[Mapping[str, Any]]) -> None:
        for line in lines:
            if "loss-scale" in line:
                known[str(line["node"])] = [line["loss-scale"], line["growth-tracker"]]
        if known:  # strategies read the record again in every round
            train_settings["loss-scaling"] = json.dumps(known)

    note(folder.metrics)
    folder.listeners.append(note)


def build_strategy(
    config: Config,
    folder: RunFolder,
    checkpoint: Checkpoint | None = None,
    nodes: Mapping[int, int] | None = None,
    on_join: OnJoin = lambda grid, nodes: {},
) -> Strategy:
    """Create the strategy of a run, which records its metrics and failures in the run folder.

    Parameters
    ----------
    config : Config
        Settings of the run.
    folder : RunFolder
        Folder of the run.
    checkpoint : Checkpoint, optional
        Checkpoint to resume from; by default none.
    nodes : mapping of int to int, optional
        Ids of the nodes with which the run starts or resumes, by position; by default unknown.
    on_join : callable
        See ``DecentralizedStrategy``; by default no newcomer is refused.
    """

    def keep(reached: Checkpoint) -> None:
        if is_due(reached.server_round, config.checkpoint_every, config.num_server_rounds):
            save_checkpoint(folder.checkpoints, reached)

    options = strategy_options(config) | {
        # Without checkpoints, no node sends an exact copy of its quantized post.
        "resume": Resume(checkpoint, keep if config.checkpoint_every else forget, nodes),
        "on_failure": folder.note_failure,
        "train_metrics_aggr_fn": folder.recorder("train"),
        "evaluate_metrics_aggr_fn": folder.recorder("evaluate"),
    }
    strategy = STRATEGIES[config.strategy]
    if issubclass(strategy, FedAvg):
        options["positions"] = {node_id: place for place, node_id in (nodes or {}).items()}
    else:
        options["on_join"] = on_join
    return strategy(**options)


def _evaluate_start(
    grid: Grid,
    nodes: Mapping[int, int],
    initial: State,
    settings: ConfigRecord,
    folder: RunFolder,
    timeout: float,
) -> None:
    """Evaluate the initial adapter on every node as round 0, whatever the strategy."""
    config = ConfigRecord({**settings, "server-round": 0})
    content = RecordDict({"arrays": ArrayRecord(initial), "config": config})
    kind = MessageType.EVALUATE
    messages = [Message(content, message_type=kind, dst_node_id=id_) for id_ in nodes.values()]
    got = sort_replies(grid.send_and_receive(messages, timeout=timeout), nodes, called=nodes)
    check_failures(0, got.errors | got.silent, len(nodes), tolerated=0)
    folder.recorder("evaluate")(list(got.contents.values()), "num-examples")


def _average_scorer(
    task: Task, config: Config, folder: RunFolder
) -> Callable[[int, ArrayRecord], MetricRecord | None]:
    """Make a function that evaluates the average of the nodes' models, the metric of Dec-LoRA."""

    def score(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if not is_due(server_round, config.evaluation.evaluate_every, config.num_server_rounds):
            return None
        set_adapter(task.model, arrays.to_torch_state_dict())
        test = load_test(config.model, config.lora, config.data, config.seed)
        scores = evaluate_rows(task, test, config.train)
        averages = {f"average-{name}": value for name, value in scores.items()}
        folder.append([{"round": server_round, "phase": "average", **averages}])
        return MetricRecord(dict(averages))

    return score


def _final_adapters(
    strategy: Strategy, grid: Grid, result: Result, config: Config, n: int
) -> dict[str, State]:
    if not isinstance(strategy, DecentralizedStrategy):
        return {"global": dict(result.arrays.to_torch_state_dict())}
    adapters = {f"node-{node}": state for node, state in strategy.collect(grid).items()}
    if config.posts.collectable and not config.topology.is_open and len(adapters) < n:
        raise RuntimeError(
            f"{n - len(adapters)} nodes did not return their adapters at the end; resume "
            "the run with resume-from, which requests them again"
        )
    return adapters


def _save_adapters(
    adapters: Mapping[str, State], task: Task, config: Config, folder: RunFolder, n: int
) -> None:
    """Write each adapter with its model card, through the model of the task."""
    evaluations = last_evaluations(folder.metrics)
    for name, state in adapters.items():
        set_adapter(task.model, state)
        last = evaluations.get(name, {})
        card = model_card(name, config, n, last, own_rows="own-rows" in folder.run)
        folder.save(name, partial(_write_model, task, config, card))


def _write_model(task: Task, config: Config, card: str, path: Path) -> None:
    save_model(task.model, path, config.model.name)
    (path / "README.md").write_text(card, encoding="utf8")


def _check_complete(config: Config, folder: RunFolder) -> None:
    # Flower's own strategies continue without replies and end "successfully"; here, the run fails.
    trained = {line["round"] for line in folder.metrics if line["phase"] == "train"}
    missing = set(range(1, config.num_server_rounds + 1)) - trained
    if missing:
        raise RuntimeError(f"no node trained in round {min(missing)}; see the log for the cause")
