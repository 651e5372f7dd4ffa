"""One run: one strategy from the evaluation at the start to the adapters in its run folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from flwr_decaf.checkpoint import Checkpoint, save_checkpoint
from flwr_decaf.clients.adapter import initialize_adapter, set_adapter
from flwr_decaf.clients.tasks import Task, load_task, load_test
from flwr_decaf.clients.training import evaluate_rows
from flwr_decaf.config import Config, Value
from flwr_decaf.data.partitions import partition_rows
from flwr_decaf.data.sources import load_rows
from flwr_decaf.lora import State
from flwr_decaf.mixing_matrix import graph_of, lambda2
from flwr_decaf.network import Network, build_changing_network, phase_length, rho
from flwr_decaf.rules import NEEDED
from flwr_decaf.run_folder import RunFolder
from flwr_decaf.schedules import is_due
from flwr_decaf.strategies import STRATEGIES, FedAvg, Router, TADLoRA
from flwr_decaf.strategies.attendance import check_failures
from flwr_decaf.strategies.participation import present, read_schedule
from flwr_decaf.tensorboard import event_writer
from flwr_decaf.text import first_line

_log = logging.getLogger("flwr")
_LOOKED_AT = 20  # rounds of a changing graph
_TRIED = 100  # rows


def check(config: Config, n: int) -> None:
    """Refuse a run that cannot be, by trying all that is tried before training.

    Raises
    ------
    ValueError
        In one line: a model, data set or partition that cannot be had on n nodes, LoRA targets
        that match nothing, a graph that does not exist.
    """
    if issubclass(STRATEGIES[config.strategy], FedAvg):
        _refuse_on_a_server(config)
    else:
        schedule = read_schedule(config.participation)
        for server_round in range(1, len(schedule) + 1):
            present(server_round, n, schedule, drop_probability=0.0, seed=0)
        _check_honest_majority(config, n)
    task = load_task(config.model, config.lora, config.data)
    partition_rows(config.data, n, config.seed)
    _try_rows(task, config)
    _network(config, n)


def run_once(
    grid: Grid,
    nodes: list[int],
    config: Config,
    chosen: Mapping[str, Value],
    folder: RunFolder,
    checkpoint: Checkpoint | None = None,
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
    checkpoint : Checkpoint, optional
        Where to go on.
    """
    task = load_task(config.model, config.lora, config.data)
    initial = initialize_adapter(task.model, config.seed)
    settings = ConfigRecord({"settings": json.dumps(dict(chosen))})
    strategy = build_strategy(config, folder, checkpoint)
    if config.tensorboard:
        folder.listeners.append(event_writer(folder.path / "tensorboard"))
    folder.update(labels=task.labels, network=_describe_network(config, strategy, len(nodes)))
    if checkpoint is None:
        asked = nodes[:1] if config.strategy == "centralized" else nodes
        _evaluate_start(grid, asked, initial, settings, folder, config.round_timeout)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(initial),
        num_rounds=config.num_server_rounds,
        timeout=config.round_timeout,
        train_config=settings,
        evaluate_config=settings,
        evaluate_fn=_average_scorer(task, config, folder) if config.evaluate_average else None,
    )
    adapters = _final_adapters(strategy, grid, result)
    if isinstance(strategy, Router) and len(adapters) < len(nodes):
        raise RuntimeError(
            f"{len(nodes) - len(adapters)} nodes did not hand over their adapter at the end; go on "
            "with resume-from, which asks them again"
        )
    for name, state in adapters.items():
        set_adapter(task.model, state)
        folder.save(name, task.model.save_pretrained)
    _check_complete(config, folder)


def build_strategy(
    config: Config, folder: RunFolder, checkpoint: Checkpoint | None = None
) -> Strategy:
    """Make the strategy that the settings name, with the run folder as its recorder."""

    def keep(reached: Checkpoint) -> None:
        if is_due(reached.server_round, config.checkpoint_every, config.num_server_rounds):
            save_checkpoint(folder.checkpoints, reached)

    common: dict[str, Any] = {
        "evaluate_every": config.evaluate_every,
        "resume_from": checkpoint,
        "on_round": keep,
        "train_metrics_aggr_fn": folder.recorder("train"),
        "evaluate_metrics_aggr_fn": folder.recorder("evaluate"),
    }
    common |= {
        "max_failures": None if config.max_failures < 0 else config.max_failures,
        "on_failure": folder.note_failure,
    }
    strategy = STRATEGIES[config.strategy]
    if issubclass(strategy, FedAvg):
        return strategy(num_rounds=config.num_server_rounds, **common)
    common |= {
        "retries": config.retries,
        "participation": read_schedule(config.participation),
        "drop_probability": config.drop_probability,
        "robust": config.robust.method,
        "liars": config.robust.liars,
        "sign_flipping": config.attack.sign_flipping,
        "seed": config.topology.seed,
    }
    if config.strategy != "local-only":
        common |= network_options(config)
    if strategy is TADLoRA:
        length = config.tad.phase_length
        common["phase_length"] = length if length == "auto" else int(length)
        common["mixes"] = config.tad.mixes
    return strategy(**common)


def network_options(config: Config) -> dict[str, Any]:
    """Get the arguments of ``build_changing_network`` and of a ``Router``: the network."""
    topology = config.topology
    own = getattr(STRATEGIES[config.strategy], "own_weights", "metropolis")
    return {
        "topology": topology.file or topology.name,
        "weights": own if topology.weights == "auto" else topology.weights,
        "dynamic": topology.dynamic,
        "seed": topology.seed,
        "topology_options": {
            "edge_probability": topology.edge_probability,
            "degree": topology.degree,
            "activation_probability": topology.activation_probability,
        },
    }


def _try_rows(task: Task, config: Config) -> None:
    """Encode the test rows and the first train rows: what is wrong with them must show here."""
    rows = load_rows(config.data, config.seed)
    train = rows["train"].select(range(min(_TRIED, len(rows["train"]))))
    try:
        load_test(config.model, config.lora, config.data, config.seed)
        task.encode(train)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"data.name must hold rows that model.task = {config.model.task} can encode; got "
            f"{type(error).__name__}: {first_line(error)}; see data.text-column, data.prompt, "
            "data.response and data.messages-column"
        ) from error


def _refuse_on_a_server(config: Config) -> None:
    none = Config()
    for key, value, default in (
        ("drop-probability", config.drop_probability, none.drop_probability),
        ("participation", config.participation, none.participation),
        ("robust.method", config.robust.method, none.robust.method),
        ("attack.sign-flipping", config.attack.sign_flipping, none.attack.sign_flipping),
    ):
        if value != default:
            raise ValueError(
                f"{key} must be {default!r} with strategy {config.strategy}; got {value!r}; it is "
                "for nodes on a graph"
            )


def _check_honest_majority(config: Config, n: int) -> None:
    """Refuse robust mixing where nobody has the neighbours for it, and a run of liars alone."""
    if config.attack.sign_flipping >= n:
        raise ValueError(
            f"attack.sign-flipping must leave honest nodes; got {config.attack.sign_flipping} of "
            f"{n} nodes; let fewer lie"
        )
    network, robust = _network(config, n), config.robust
    needed = NEEDED[robust.method](robust.liars)
    rounds = range(1, min(config.num_server_rounds, _LOOKED_AT) + 1)
    degrees = [d for t in rounds for _, d in graph_of(network.of_round(t)).degree]
    if needed > max(degrees, default=0):
        raise ValueError(
            f"robust.liars must leave a node neighbours to trust: {robust.method} with "
            f"{robust.liars} takes {needed} of them; got at most {max(degrees, default=0)}; take "
            "a denser topology, or fewer liars"
        )
    if needed > min(degrees, default=0):
        _log.warning("robust.method: nodes with fewer than %d neighbours will not mix", needed)


def _network(config: Config, n: int) -> Network:
    options = network_options(config)
    if config.strategy == "local-only":
        options |= {"topology": "isolated", "dynamic": "static"}
    network = build_changing_network(n=n, **options)
    if config.strategy == "tad-lora" and config.tad.phase_length == "auto":
        phase_length(network)  # refuse here what the first round would refuse
    return network


def _describe_network(config: Config, strategy: Strategy, n: int) -> dict[str, Any]:
    if not isinstance(strategy, Router):
        return {"nodes": n}
    network = _network(config, n)
    return {
        "nodes": n,
        "lambda2": lambda2(network.base),
        "rho": rho(network),
        "mixing-matrix": network.base.tolist(),
    }


def _evaluate_start(
    grid: Grid,
    nodes: list[int],
    initial: State,
    settings: ConfigRecord,
    folder: RunFolder,
    timeout: float,
) -> None:
    """Score the initial adapter on every node, as round 0, whatever the strategy."""
    config = ConfigRecord({**settings, "server-round": 0})
    content = RecordDict({"arrays": ArrayRecord(initial), "config": config})
    kind = MessageType.EVALUATE
    asked = [Message(content=content, message_type=kind, dst_node_id=node) for node in nodes]
    replies = list(grid.send_and_receive(asked, timeout=timeout))
    errors = [reply for reply in replies if reply.has_error()]
    causes = {reply.metadata.src_node_id: str(reply.error.reason) for reply in errors}
    if len(replies) < len(nodes):
        causes[0] = f"{len(nodes) - len(replies)} nodes gave no reply in time"
    check_failures(0, causes, asked=len(nodes), tolerated=0)
    folder.recorder("evaluate")([reply.content for reply in replies], "num-examples")


def _average_scorer(
    task: Task, config: Config, folder: RunFolder
) -> Callable[[int, ArrayRecord], MetricRecord | None]:
    """Make the function that scores the average over the nodes' models, Dec-LoRA's own metric."""

    def score(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if not is_due(server_round, config.evaluate_every, config.num_server_rounds):
            return None
        set_adapter(task.model, arrays.to_torch_state_dict())
        test = load_test(config.model, config.lora, config.data, config.seed)
        scores = evaluate_rows(task, test, config.train)
        told = {f"average-{name}": value for name, value in scores.items()}
        folder.append([{"round": server_round, "phase": "average", **told}])
        return MetricRecord(dict(told))

    return score


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
