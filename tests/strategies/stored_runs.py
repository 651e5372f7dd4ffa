"""Runs whose posts travel in a store, and the same without, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from flwr.app import ArrayRecord
from flwr.common.serde import recorddict_to_proto

from flwr_decaf.clients.own_store import POSTS_STORE
from flwr_decaf.config import Posts
from tests.apps.drifting import drifting
from tests.local_grid import LocalGrid
from tests.states import lora_state

N, ROUNDS = 4, 4
A_TICKET, THE_REST = 250, 1500  # bytes of a message, with names and types


class CountingGrid(LocalGrid):
    """Counts the bytes of messages and replies, and calls ``on_message`` before each."""

    def __init__(self, *args, on_message=lambda grid, message: None, **options):
        super().__init__(*args, **options)
        self.sizes: list[int] = []
        self.on_message = on_message

    def call(self, message):
        self.on_message(self, message)
        reply = super().call(message)
        for one in (message, reply):
            if one is not None and one.has_content():
                self.sizes.append(recorddict_to_proto(one.content).ByteSize())
        return reply


def grid_with(store, app=drifting, **options):
    def configure(place):
        config = {"partition-id": place, "num-partitions": N}
        return config | ({POSTS_STORE: store} if store else {})

    return CountingGrid(app, N, node_config=configure, **options)


def run(
    strategy, store, grid=None, topology="ring", posts=None, initial=None, rounds=ROUNDS, **options
):
    grid = grid or grid_with(store)
    relay = strategy(topology, posts=posts or Posts(store=store), **options)
    result = relay.start(grid, ArrayRecord(initial or lora_state(0)), num_rounds=rounds)
    return relay.collect(grid), result, grid


def assert_same(first, second):
    assert first.keys() == second.keys()
    for node, state in first.items():
        assert all(torch.equal(x, second[node][name]) for name, x in state.items())


def files(store):
    return {file.name for file in Path(store).iterdir()}
