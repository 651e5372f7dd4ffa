"""Runs in which nodes mix and do not train, for tests."""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from tests.apps.pure_mixing import (
    app,
    evaluate_held_value,
    start_value,
    train_identity,
)
from tests.local_grid import LocalGrid

START = {"x": torch.zeros(2, dtype=torch.float64)}


def held_after(strategy, n, rounds, grid=None, **options):
    grid = grid or LocalGrid(app, n)
    strategy.start(grid, ArrayRecord(START), num_rounds=rounds, **options)
    return torch.stack([state["x"] for state in strategy.collect(grid).values()]).numpy()


def disturb(strategy, grid, plan, how="broken"):
    """Let nodes fail, or be gone, in some rounds: round -> partitions."""
    configure = strategy.configure_train

    def configure_and_disturb(server_round, *rest):
        setattr(grid, how, plan.get(server_round, set()))
        return configure(server_round, *rest)

    strategy.configure_train = configure_and_disturb


def starts(n):
    return np.stack([start_value(place).numpy() for place in range(n)])


def named_client():
    def train(msg, context):
        reply = train_identity(msg, context)
        reply.content["metrics"]["partition-id"] = context.node_config["partition-id"]
        return reply

    client = ClientApp(mods=[peer_mixing])
    client.train()(train)
    client.evaluate()(evaluate_held_value)
    return client


def is_round(message, server_round):
    return message.content.get("config", {}).get("server-round") == server_round
