"""Runs that encrypt their posts, and the same without, for tests."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord

from flwr_decaf.config import Posts
from flwr_decaf.strategies import LocalOnly
from tests.apps.drifting import drifting
from tests.local_grid import LocalGrid
from tests.states import lora_state

N, ROUNDS = 4, 4
SEALED_POSTS = Posts(encryption="x25519")


class TamperingGrid(LocalGrid):
    """Lets a test see and change what the relay sends: ``tamper(grid, place, content)``."""

    tamper = staticmethod(lambda grid, place, content: None)

    def call(self, message):
        self.tamper(self, self.place_of(message), message.content)
        return super().call(message)


def run(strategy, grid, topology="ring", posts=SEALED_POSTS, rounds=ROUNDS, n=N, **options):
    arguments = () if strategy is LocalOnly else (topology,)
    relay = strategy(*arguments, posts=posts, **options)
    result = relay.start(grid, ArrayRecord(lora_state(0)), num_rounds=rounds)
    return relay.collect(grid), result


def plain(strategy, n=N, **options):
    grid = LocalGrid(drifting, n)
    states, result = run(strategy, grid, posts=Posts(options.pop("dtype", "fp32")), **options)
    return states, result


def assert_same(first, second):
    assert first.keys() == second.keys()
    for node, state in first.items():
        assert list(state) == list(second[node])
        assert all(torch.equal(x, second[node][name]) for name, x in state.items())
