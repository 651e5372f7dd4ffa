"""ClientApps whose training is simple arithmetic, so that tests can compute the result.

They are in a separate module because Ray's actors import them by name.
"""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing


def held_value(msg: Message) -> torch.Tensor:
    return msg.content["arrays"].to_torch_state_dict()["x"]


def start_value(place: int) -> torch.Tensor:
    return torch.tensor([float(place), float(place) ** 2], dtype=torch.float64)


def train_identity(msg: Message, context: Context) -> Message:
    """Set the node's start value in round 1, and return the arrays unchanged afterwards."""
    first = msg.content["config"]["server-round"] == 1
    place = int(context.node_config["partition-id"])
    x = start_value(place) if first else held_value(msg)
    return Message(
        RecordDict({"arrays": ArrayRecord({"x": x}), "metrics": MetricRecord({"num-examples": 1})}),
        reply_to=msg,
    )


def evaluate_held_value(msg: Message, context: Context) -> Message:
    metrics = {
        "num-examples": 1,
        "partition-id": int(context.node_config["partition-id"]),
        "held": held_value(msg).tolist(),
    }
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)


def make_app(*mods: object) -> ClientApp:
    app = ClientApp(mods=list(mods))
    app.train()(train_identity)
    app.evaluate()(evaluate_held_value)
    return app


app = make_app(peer_mixing)
app_without_the_mod = make_app()


def train_but_not_on_node_1(msg: Message, context: Context) -> Message:
    if int(context.node_config["partition-id"]) == 1:
        raise ValueError("no rows on node 1")
    return train_identity(msg, context)


app_without_evaluation = ClientApp(mods=[peer_mixing])
app_without_evaluation.train()(train_but_not_on_node_1)
