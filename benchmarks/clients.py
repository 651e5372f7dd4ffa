"""ClientApps of the benchmarks, in a separate module because Ray's actors import them by name."""

from __future__ import annotations

import json
from typing import cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flwr_decaf.app.client_app import app as peers
from flwr_decaf.clients import peer_mixing
from flwr_decaf.clients.loading import forget_task, load_node_data, load_task
from flwr_decaf.clients.models.adapter import get_adapter, set_adapter
from flwr_decaf.clients.training import train_locally
from flwr_decaf.config import parse_config
from flwr_decaf.seeds import derive_seed

__all__ = ["drifting", "idle", "peers", "reloading"]

idle = ClientApp(mods=[peer_mixing])
drifting = ClientApp(mods=[peer_mixing])
reloading = ClientApp()


@idle.train()
def send_back(msg: Message, context: Context) -> Message:
    """Return the arrays unchanged, converted to tensors and back as in any client."""
    state = cast(ArrayRecord, msg.content["arrays"]).to_torch_state_dict()
    content = RecordDict({"arrays": ArrayRecord(state), "metrics": _metrics(msg, context)})
    return Message(content, reply_to=msg)


@drifting.train()
def drift(msg: Message, context: Context) -> Message:
    """Change every array a little, each node by another amount."""
    state = cast(ArrayRecord, msg.content["arrays"]).to_torch_state_dict()
    node = cast(int, context.node_config["partition-id"])
    moved = {name: tensor + 1e-3 * (node + 1) for name, tensor in state.items()}
    content = RecordDict({"arrays": ArrayRecord(moved), "metrics": _metrics(msg, context)})
    return Message(content, reply_to=msg)


@idle.evaluate()
@drifting.evaluate()
def evaluate_nothing(msg: Message, context: Context) -> Message:
    """Reply immediately."""
    return Message(RecordDict({"metrics": _metrics(msg, context)}), reply_to=msg)


def _metrics(msg: Message, context: Context) -> MetricRecord:
    node = cast(int, context.node_config["partition-id"])
    server_round = cast(int, cast(ConfigRecord, msg.content["config"])["server-round"])
    return MetricRecord({"num-examples": 1, "partition-id": node, "server-round": server_round})


@reloading.train()
def load_and_train(msg: Message, context: Context) -> Message:
    """Reload tokenizer, base and adapter, then train, as FlowerTune's example does."""
    sent = cast(ConfigRecord, msg.content["config"])
    config = parse_config(json.loads(str(sent["settings"])))
    node, n = (cast(int, context.node_config[key]) for key in ("partition-id", "num-partitions"))
    torch.set_num_threads(1)
    forget_task()
    task = load_task(config.model, config.lora, config.data)
    set_adapter(task.model, cast(ArrayRecord, msg.content["arrays"]).to_torch_state_dict())
    data = load_node_data(config.model, config.lora, config.data, config.seed, node, n)
    seed = derive_seed(config.seed, "train", cast(int, sent["server-round"]), node)
    train_locally(task, data.train, config.train, "AB", seed)
    metrics = MetricRecord({"num-examples": len(data.train)})
    content = RecordDict({"arrays": ArrayRecord(get_adapter(task.model)), "metrics": metrics})
    return Message(content, reply_to=msg)
