"""A ClientApp whose nodes move what trains by a step of their own."""

from __future__ import annotations

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.lora import factor_of

drifting = ClientApp(mods=[peer_mixing])


@drifting.train()
def train(msg, context):
    step, trains = 1 + context.node_config["partition-id"], msg.content["config"]
    state = {
        name: x + step if (factor_of(name) or "B") in trains["trainable-factors"] else x
        for name, x in msg.content["arrays"].to_torch_state_dict().items()
    }
    content = {"arrays": ArrayRecord(state), "metrics": MetricRecord({"num-examples": 1})}
    return Message(RecordDict(content), reply_to=msg)


@drifting.evaluate()
def evaluate(msg, context):
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=msg)
