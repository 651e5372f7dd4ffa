"""The experiment by this package in Flower's simulation, with a ClientApp like examples/digits."""

from __future__ import annotations

from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from benchmarks.peers import digits
from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies import DLoRA

server, client = ServerApp(), ClientApp(mods=[peer_mixing])


@client.train()
def train(msg: Message, context: Context) -> Message:
    """Train the node's mixed model."""
    model = _model_of(cast(ArrayRecord, msg.content["arrays"]).to_torch_state_dict())
    node = cast(int, context.node_config["partition-id"])
    server_round = cast(int, cast(ConfigRecord, msg.content["config"])["server-round"])
    digits.train(model, node, finished=server_round - 1)
    metrics = MetricRecord({"num-examples": digits.inputs().batches[0, node].numel()})
    content = {"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}
    return Message(RecordDict(content), reply_to=msg)


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """Train on a ring, then collect the nodes' mixed models."""
    strategy = DLoRA("ring", evaluate_every=0)
    initial = ArrayRecord(digits.initial_model().state_dict())
    strategy.start(grid, initial, num_rounds=digits.inputs().rounds)
    for node, state in strategy.collect(grid).items():
        digits.note_accuracy(_model_of(state), node)


def _model_of(state: digits.State) -> digits.Net:
    model = digits.Net()
    model.load_state_dict(state)
    return model


def main() -> None:
    """Run the simulation with one actor per core."""
    from flwr.simulation import run_simulation

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, client, digits.inputs().nodes, backend_config=resources)
