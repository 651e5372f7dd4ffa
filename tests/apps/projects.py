"""Small projects with the interfaces of Flower's own examples, each with one line changed.

Every client fits a linear map to its own rows by full-batch gradient steps, so that a test can
reproduce a run in numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies import DeCAF, DLoRA

ROWS, INPUTS, OUTPUTS, RATE = 8, 3, 2, 0.1
FIRST = [np.zeros((INPUTS, OUTPUTS)), np.zeros(OUTPUTS)]  # the start of every numpy client


def rows_of(node: int, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Draw a node's rows; the map differs from node to node."""
    rng = np.random.default_rng(node)
    x = rng.normal(size=(rows + node, INPUTS))  # unequal data
    return x, x @ rng.normal(size=(INPUTS, OUTPUTS)) + node


def step(coef: np.ndarray, intercept: np.ndarray, node: int) -> list[np.ndarray]:
    """Take one gradient step on a node's mean squared error."""
    x, y = rows_of(node)
    error = x @ coef + intercept - y
    return [coef - RATE * x.T @ error / len(x), intercept - RATE * error.mean(axis=0)]


def loss_of(coef: np.ndarray, intercept: np.ndarray, node: int) -> float:
    x, y = rows_of(node)
    return float(((x @ coef + intercept - y) ** 2).mean())


def _place(context: Context) -> int:
    return int(context.node_config["partition-id"])


# As in quickstart-sklearn: a list of numpy arrays, without torch.
numpy_app = ClientApp(mods=[peer_mixing])


@numpy_app.train()
def train_numpy(msg: Message, context: Context) -> Message:
    node = _place(context)
    arrays = step(*msg.content["arrays"].to_numpy_ndarrays(), node)
    metrics = {"num-examples": ROWS + node, "train_loss": loss_of(*arrays, node)}
    content = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)}
    return Message(content=RecordDict(content), reply_to=msg)


@numpy_app.evaluate()
def evaluate_numpy(msg: Message, context: Context) -> Message:
    node = _place(context)
    loss = loss_of(*msg.content["arrays"].to_numpy_ndarrays(), node)
    metrics = MetricRecord({"num-examples": ROWS + node, "test_loss": loss})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)


# As in advanced-pytorch: a torch module, a learning rate in the message, a strategy with a loop.
torch_app = ClientApp(mods=[peer_mixing])


@torch_app.train()
def train_torch(msg: Message, context: Context) -> Message:
    net = torch.nn.Linear(INPUTS, OUTPUTS)
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    x, y = (torch.tensor(part, dtype=torch.float32) for part in rows_of(_place(context)))
    optimizer = torch.optim.SGD(net.parameters(), lr=float(msg.content["config"]["lr"]))
    loss = torch.nn.functional.mse_loss(net(x), y)
    loss.backward()
    optimizer.step()
    metrics = {"num-examples": len(x), "lr": msg.content["config"]["lr"], "loss": loss.item()}
    content = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord(metrics)}
    return Message(content=RecordDict(content), reply_to=msg)


@torch_app.evaluate()
def evaluate_torch(msg: Message, context: Context) -> Message:
    net = torch.nn.Linear(INPUTS, OUTPUTS)
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    x, y = (torch.tensor(part, dtype=torch.float32) for part in rows_of(_place(context)))
    loss = torch.nn.functional.mse_loss(net(x), y).item()
    metrics = MetricRecord({"num-examples": len(x), "eval_loss": loss})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)


class OwnLoop(DLoRA):  # was: FedAvg
    """A strategy with its own ``start``, which keeps the results of every round."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Any:
        if server_round == 2:
            config["lr"] = config["lr"] * 0.5
        return super().configure_train(server_round, arrays, config, grid)

    def start(
        self, grid: Grid, initial_arrays: ArrayRecord, num_rounds: int = 3, timeout: float = 3600,
        train_config: ConfigRecord | None = None, evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Any = None,
    ) -> Result:  # fmt: skip
        self.summary()
        train_config, evaluate_config = train_config or ConfigRecord(), ConfigRecord()
        result, arrays, self.scored = Result(), initial_arrays, []
        for current in range(1, num_rounds + 1):
            messages = self.configure_train(current, arrays, train_config, grid)
            replies = grid.send_and_receive(messages=messages, timeout=timeout)
            aggregated, metrics = self.aggregate_train(current, replies)
            if aggregated is not None:
                result.arrays = arrays = aggregated
            if metrics is not None:
                result.train_metrics_clientapp[current] = metrics
            messages = self.configure_evaluate(current, arrays, evaluate_config, grid)
            replies = grid.send_and_receive(messages=messages, timeout=timeout)
            metrics = self.aggregate_evaluate(current, replies)
            if metrics is not None:
                result.evaluate_metrics_clientapp[current] = metrics
            if evaluate_fn:
                self.scored.append(evaluate_fn(current, arrays))
        return result


# As in flowertune-llm: LoRA factors, accumulated gradients, and no evaluate function.
lora_app = ClientApp(mods=[peer_mixing])
RANK, ACCUMULATED = 1, 4
A, B = "base_model.model.map.lora_A.weight", "base_model.model.map.lora_B.weight"


def first_factors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {A: torch.randn(RANK, INPUTS), B: torch.zeros(OUTPUTS, RANK)}


@lora_app.train()
def train_lora(msg: Message, context: Context) -> Message:
    factors = msg.content["arrays"].to_torch_state_dict()
    down, up = (torch.nn.Parameter(factors[name]) for name in (A, B))
    optimizer = torch.optim.AdamW([down, up], lr=float(msg.content["config"]["lr"]))
    x, y = (torch.tensor(part, dtype=torch.float32) for part in rows_of(_place(context), rows=32))
    total = 0.0
    for number, (inputs, targets) in enumerate(zip(x.split(2), y.split(2), strict=True), start=1):
        loss = torch.nn.functional.mse_loss(inputs @ down.T @ up.T, targets) / ACCUMULATED
        loss.backward()
        total += loss.item()
        if number % ACCUMULATED == 0:
            optimizer.step()
            optimizer.zero_grad()
    arrays = ArrayRecord({A: down.detach(), B: up.detach()})
    metrics = MetricRecord({"train_loss": total / len(x), "num-examples": len(x)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)


class CountsBytes(DeCAF):  # was: FedAvg
    """A strategy that sums the bytes of its messages and replies."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.carried = 0

    def configure_train(self, *arguments: Any) -> Any:
        messages = super().configure_train(*arguments)
        self._track(messages)
        return messages

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        self._track(replies)
        return super().aggregate_train(server_round, replies)

    def _track(self, messages: Any) -> None:
        self.carried += sum(
            record.count_bytes()
            for message in messages
            if message.has_content()
            for record in message.content.array_records.values()
        )


# With Flower's legacy API, which DeCAF refuses.
legacy_app = ClientApp(client_fn=lambda context: NumPyClient().to_client())
legacy_app_with_the_mod = ClientApp(lambda context: NumPyClient().to_client(), [peer_mixing])
