"""peer_mixing is the first mod; Flower's own mods follow it and see ordinary messages."""

from __future__ import annotations

import logging

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, arrays_size_mod, fixedclipping_mod, message_size_mod

from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies import DLoRA
from tests.local_grid import LocalGrid

START = {"x": torch.zeros(4)}
STEP = 3.0  # what training adds to every entry: an update of norm 6


def run(*mods, rounds=1, **options):
    """Run two nodes on a complete graph, and return the average of their final models."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(msg, context):
        x = msg.content["arrays"].to_torch_state_dict()["x"] + STEP
        metrics = MetricRecord({"num-examples": 1})
        return Message(
            RecordDict({"arrays": ArrayRecord({"x": x}), "metrics": metrics}), reply_to=msg
        )

    grid = LocalGrid(app, 2)
    strategy = DLoRA("complete", evaluate_every=0)
    result = strategy.start(grid, ArrayRecord(START), num_rounds=rounds, **options)
    return result.arrays.to_torch_state_dict()["x"]


def test_size_mods_count_what_the_node_trains(caplog):
    with caplog.at_level(logging.INFO, logger="flwr"):
        run(peer_mixing, arrays_size_mod, message_size_mod, rounds=2)
    lines = [record.getMessage() for record in caplog.records]
    # In and out, two nodes, two rounds: posts of neighbours are not counted.
    assert sum("{'arrays': {'elements': 4, 'bytes'" in text for text in lines) == 8
    assert sum("Incoming message size" in text for text in lines) == 4


def test_clipping_bounds_the_update_of_each_round():
    clip = {"train_config": ConfigRecord({"clipping_norm": 1.0})}
    for rounds in (1, 3):
        x = run(peer_mixing, fixedclipping_mod, rounds=rounds, **clip)
        torch.testing.assert_close(x, torch.full((4,), 0.5 * rounds))  # norm 1 per round
    assert torch.equal(run(peer_mixing, rounds=1), torch.full((4,), STEP))


def test_local_differential_privacy_clips_and_adds_noise_to_the_update():
    dp = LocalDpMod(clipping_norm=1.0, sensitivity=1.0, epsilon=1e6, delta=1e-5)
    x = run(peer_mixing, dp, rounds=2)
    torch.testing.assert_close(x, torch.full((4,), 1.0), atol=1e-3, rtol=0)
    assert not torch.equal(x, torch.full((4,), 1.0))  # a little noise, since epsilon is large
    assert x.dtype == torch.float32


def test_mods_in_the_wrong_order_are_rejected():
    with pytest.raises(
        RuntimeError,
        match=r"has another mod before it; write ClientApp\(mods=\[peer_mixing, ...\]\)",
    ):
        run(fixedclipping_mod, peer_mixing)
