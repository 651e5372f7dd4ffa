"""The ClientApp: ordinary Flower functions that train and evaluate an adapter, and the mod.

The functions do not depend on peers; FedAvg uses the same ones.
"""

from __future__ import annotations

import json
import os
from typing import cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing_with, pretraining
from flwr_decaf.clients.evaluation import evaluate_node
from flwr_decaf.clients.loading import load_node_data, load_task
from flwr_decaf.clients.models.adapter import get_adapter, set_adapter
from flwr_decaf.clients.models.hardware import LossScaling, choose_device
from flwr_decaf.clients.node_matching import matching_on
from flwr_decaf.clients.tasks.contract import Task
from flwr_decaf.clients.training import train_locally
from flwr_decaf.config import Config, parse_config
from flwr_decaf.data.partitions import NodeData
from flwr_decaf.matching import Matching
from flwr_decaf.seeds import derive_seed
from flwr_decaf.strategies import STRATEGIES, FedAvg


def matching(msg: Message, context: Context) -> Matching:
    """Prepare DIMAT's matching on the rows of this node."""
    config, node, _, task, data = _load(msg, context)
    # Independent of the round: posts arrive with its evaluation or with the next training.
    seed = derive_seed(config.seed, "matching", node)
    return matching_on(task, data.train, config.dimat, seed)


app = ClientApp(mods=[peer_mixing_with(matching)])


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the adapter in the message on the rows of this node, and send it back."""
    config, node, server_round, task, data = _prepare(msg, context)
    sent = cast(ConfigRecord, msg.content["config"])
    if pretraining.needs_pretraining(task, config.train, config.seed):
        # FedAvg needs a common start, since there is one global model; others start on their own.
        if not issubclass(STRATEGIES[config.strategy], FedAvg):
            pretraining.draw_own_start(task, config.seed, node)
        own_seed = derive_seed(config.seed, "pretraining", node)
        metrics = pretraining.pretrain(task, data.train, config.train, own_seed)
        return _reply(msg, node, server_round, len(data.train), metrics, task)
    metrics = train_locally(
        task,
        data.train,
        config.train,
        trainable=str(sent.get("trainable-factors", "AB")),
        seed=derive_seed(config.seed, "train", node),
        server_round=server_round,
        rounds=config.num_server_rounds,
        scaling=_scaling(sent, node),
    )
    return _reply(msg, node, server_round, len(data.train), metrics, task)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the adapter in the message on the common test set and on the node's own."""
    config, node, server_round, task, data = _prepare(msg, context)
    metrics = evaluate_node(task, data, config.train)
    return _reply(msg, node, server_round, len(data.test), metrics)


def _prepare(msg: Message, context: Context) -> tuple[Config, int, int, Task, NodeData]:
    loaded = _load(msg, context)
    task = loaded[3]
    set_adapter(task.model, cast(ArrayRecord, msg.content["arrays"]).to_torch_state_dict())
    return loaded


def _load(msg: Message, context: Context) -> tuple[Config, int, int, Task, NodeData]:
    sent = cast(ConfigRecord, msg.content["config"])
    # The message holds the settings that vary within a comparison, the run-config all others.
    config = parse_config({**context.run_config, **json.loads(str(sent.get("settings", "{}")))})
    node, n = (cast(int, context.node_config[key]) for key in ("partition-id", "num-partitions"))
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    task = load_task(config.model, config.lora, config.data)
    task.model.to(choose_device(config.train.device))
    server_round = cast(int, sent["server-round"])
    if config.strategy == "centralized":  # one node, as node 0, trains on all data
        node, n = 0, 1
    data = load_node_data(config.model, config.lora, config.data, config.seed, node, n)
    return config, node, server_round, task, data


def _scaling(sent: ConfigRecord, node: int) -> LossScaling:
    """Read the state of fp16 loss scaling that the node last reported from the message."""
    reported = json.loads(str(sent.get("loss-scaling", "{}")))
    return LossScaling(*reported.get(str(node), ()))


def _reply(
    msg: Message,
    node: int,
    server_round: int,
    num_examples: int,
    metrics: dict[str, float],
    trained: Task | None = None,
) -> Message:
    origin = {"partition-id": node, "server-round": server_round, "process": os.getpid()}
    content = RecordDict(
        {"metrics": MetricRecord({**origin, "num-examples": num_examples, **metrics})}
    )
    if trained is not None:
        content["arrays"] = ArrayRecord(get_adapter(trained.model))
    return Message(content, reply_to=msg)
