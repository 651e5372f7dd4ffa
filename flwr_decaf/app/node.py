"""What a train or evaluate function of the ClientApp gets from its message and its context."""

from __future__ import annotations

import json
import os
from typing import NamedTuple, cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from flwr_decaf.app.row_reports import Report, report_on, to_record
from flwr_decaf.clients.loading import load_node_data, load_own_data, load_task
from flwr_decaf.clients.models.adapter import get_adapter, set_adapter
from flwr_decaf.clients.models.hardware import LossScaling, choose_device
from flwr_decaf.clients.node_matching import matching_on
from flwr_decaf.clients.prefixes import count_rows, why_not_kept
from flwr_decaf.clients.tasks.contract import Task
from flwr_decaf.config import Config, parse_config
from flwr_decaf.data.disclosure import check_common_test
from flwr_decaf.data.own_files import DATA_PATH, own_files
from flwr_decaf.data.partitions import NodeData
from flwr_decaf.matching import Matching
from flwr_decaf.messages.records import NOT_KEPT
from flwr_decaf.seeds import derive_seed
from flwr_decaf.strategies.relay.presence import require_place


class Node(NamedTuple):
    """One node in one round.

    Attributes
    ----------
    config : Config
        Settings of the run.
    position : int
        Position of the node in the graph, its ``partition-id``.
    server_round : int
        The round.
    task : Task
        Model, batches and scores. Nodes of one process share it.
    data : NodeData
        The node's own rows, and the test rows that all nodes share.
    trainable : str
        LoRA factors that are trained in this round: "AB", "A" or "B".
    scaling : LossScaling
        State of fp16 loss scaling that the node last reported.
    """

    config: Config
    position: int
    server_round: int
    task: Task
    data: NodeData
    trainable: str
    scaling: LossScaling


def settings_of(msg: Message, context: Context) -> Config:
    """Read the settings of a run: the message has those that vary, the run-config all others."""
    return parse_config({**context.run_config, **json.loads(settings_sent(msg) or "{}")})


def settings_sent(msg: Message) -> str:
    """Return the settings in a message, as JSON text; they vary between the runs of an app."""
    return str(cast(ConfigRecord, msg.content["config"]).get("settings", ""))


def load_node(msg: Message, context: Context) -> Node:
    """Load the settings, the model and the rows of a node, but not yet its adapter."""
    sent, config = cast(ConfigRecord, msg.content["config"]), settings_of(msg, context)
    require_place(context.node_config, "this node")
    position, n = (
        cast(int, context.node_config[key]) for key in ("partition-id", "num-partitions")
    )
    files = own_files(context.node_config)
    if files:
        check_common_test(config.data, files)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    task = load_task(config.model, config.lora, config.data)
    task.model.to(choose_device(config.train.device))
    if config.strategy == "centralized":  # one node, as node 0, trains on all data
        position, n = 0, 1
    chosen = config.model, config.lora, config.data, config.seed, position
    data = load_own_data(*chosen, files) if files else load_node_data(*chosen, n)
    return Node(
        config,
        position,
        cast(int, sent["server-round"]),
        task,
        data,
        str(sent.get("trainable-factors", "AB")),
        _scaling(sent, position),
    )


def receive(msg: Message, context: Context) -> Node:
    """Load a node, and set its model to the adapter in the message."""
    node = load_node(msg, context)
    arrays = cast(ArrayRecord, msg.content["arrays"])
    set_adapter(node.task.model, arrays.to_torch_state_dict())
    return node


def reply(
    msg: Message, node: Node, num_examples: int, metrics: dict[str, float], trained: bool = False
) -> Message:
    """Answer a message with metrics, and with the node's adapter if it has been trained.

    Parameters
    ----------
    msg : Message
        The message.
    node : Node
        The node.
    num_examples : int
        Number of rows on which the metrics were computed.
    metrics : dict of str to float
        Metrics.
    trained : bool
        Whether to send the adapter; by default False.
    """
    origin = {
        "partition-id": node.position,
        "server-round": node.server_round,
        "process": os.getpid(),
    }
    content = RecordDict(
        {
            "metrics": MetricRecord(
                {**origin, "num-examples": num_examples, **metrics, **count_rows(node.task)}
            )
        }
    )
    if cause := why_not_kept(node.task):
        content[NOT_KEPT] = ConfigRecord({"cause": cause})
    if trained:
        content["arrays"] = ArrayRecord(get_adapter(node.task.model))
    return Message(content, reply_to=msg)


def matching(msg: Message, context: Context) -> Matching:
    """Prepare DIMAT's matching on the rows of this node."""
    node = load_node(msg, context)
    # Independent of the round: posts arrive with its evaluation or with the next training.
    seed = derive_seed(node.config.seed, "matching", node.position)
    return matching_on(node.task, node.data.train, node.config.dimat, seed)


def describe_rows(msg: Message, context: Context) -> Message:
    """Answer a query about the node's own rows: their numbers and classes, or what is wrong."""
    files = own_files(context.node_config)
    report: Report = f"its node-config has no {DATA_PATH}"
    if files:
        report = report_on(settings_of(msg, context), files)
    return Message(to_record(report), reply_to=msg)


def _scaling(sent: ConfigRecord, position: int) -> LossScaling:
    reported = json.loads(str(sent.get("loss-scaling", "{}")))
    return LossScaling(*reported.get(str(position), ()))
