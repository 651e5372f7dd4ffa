from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies import DLoRA
from tests.apps.pure_mixing import app, train_identity
from tests.local_grid import LocalGrid

START = {"x": torch.zeros(2, dtype=torch.float64)}


def run(grid, **options):
    reported = []
    strategy = DLoRA(
        "ring", evaluate_every=0, on_failure=lambda *what: reported.append(what), **options
    )
    configure = strategy.configure_train

    def configure_and_harm(server_round, *rest):
        if server_round == 1:
            grid.gone, grid.broken = {1}, {2}
        return configure(server_round, *rest)

    strategy.configure_train = configure_and_harm
    strategy.start(grid, ArrayRecord(START), num_rounds=1)
    return reported


def test_a_retry_keeps_the_cause_of_a_node_that_is_gone():
    """The SuperLink replies once for a node that is gone, without naming it."""
    assert run(LocalGrid(app, 4), retries=2) == [
        (1, 1, "node unavailable"),
        (1, 2, "RuntimeError: broken on purpose"),
    ]


def test_nodes_without_a_reply_and_with_a_bad_post_are_one_sum():
    def train(msg, context):
        reply = train_identity(msg, context)
        if context.node_config["partition-id"] == 3:
            reply.content["arrays"] = ArrayRecord({"x": torch.full((2,), float("nan")).double()})
        return reply

    client = ClientApp(mods=[peer_mixing])
    client.train()(train)
    assert len(run(LocalGrid(client, 6), max_failures=3)) == 3
    with pytest.raises(RuntimeError, match="round 1: 3 of 6 nodes failed, more than the 2"):
        run(LocalGrid(client, 6), max_failures=2)
