"""Asynchronous rounds in Flower's engines: three nodes, one of which is slower than the others."""

from __future__ import annotations

import pytest
import torch

from flwr_decaf.runs.folder import RunFolder
from tests.engine.test_flwr_run import adapters, flwr_decaf_run

pytestmark = pytest.mark.engine

ROUNDS = 4
SETTINGS = {
    "num-server-rounds": ROUNDS, "evaluate-every": 2, "rounds.mode": "asynchronous",
    "strategy": "dlora", "train.slowdown": "1, 1, 9",
}  # fmt: skip


@pytest.mark.parametrize(
    "engine", ["simulation", pytest.param("deployment", marks=pytest.mark.slow)]
)
def test_nodes_do_not_wait_for_one_another(tmp_path, engine):
    options = ("--nodes=3", f"--engine={engine}")
    status, log = flwr_decaf_run(tmp_path, engine, *options, **SETTINGS)
    assert status == 0, log
    folder = RunFolder(tmp_path / engine)
    assert not [line for line in folder.metrics if line["phase"] == "missing"]
    rounds = {place: [] for place in range(3)}
    for line in folder.metrics:
        if line["phase"] == "train":
            rounds[line["node"]].append(line["round"])
            assert "staleness" in line  # only in asynchronous rounds
    assert all(done == list(range(1, len(done) + 1)) for done in rounds.values())
    assert sum(len(done) == ROUNDS for done in rounds.values()) >= 2  # half of the nodes
    last = {x["node"] for x in folder.metrics if (x["phase"], x["round"]) == ("evaluate", ROUNDS)}
    assert last == {0, 1, 2}
    first, *others = adapters(folder).values()
    assert len(others) == 2
    for other in others:  # in the last mix, each node averages the same three posts
        for name, x in first.items():
            torch.testing.assert_close(other[name], x)
