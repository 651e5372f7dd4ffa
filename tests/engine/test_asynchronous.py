"""Asynchronous rounds in Flower's engines: three nodes, one of which is slower than the others."""

from __future__ import annotations

import time

import pytest
import torch

from flwr_decaf.runs.folder import RunFolder
from tests.engine.test_flwr_run import adapters, family, flwr_decaf_run
from tests.engine.test_killed_runs import NODES, start

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


@pytest.mark.slow
def test_a_killed_run_continues_with_each_node_in_its_own_round(tmp_path):
    log, folder = tmp_path / "out", RunFolder(tmp_path / "run")
    settings = {**SETTINGS, "num-server-rounds": 8}
    process = start(tmp_path, "run", log, **settings)
    while process.poll() is None and not any(folder.checkpoints.glob("round-00002")):
        time.sleep(0.1)
    for victim in (process, *family(process)):
        victim.kill()
    process.wait()
    again = start(tmp_path, "run", log, **settings, **{"resume-from": folder.path})
    assert again.wait(600) == 0, log.read_text()
    assert folder.run["resumed"][0]["after-round"] >= 2
    trained = [(x["node"], x["round"]) for x in folder.metrics if x["phase"] == "train"]
    assert len(trained) == len(set(trained))
    for place in range(NODES):
        rounds = [server_round for node, server_round in trained if node == place]
        assert rounds == list(range(1, len(rounds) + 1))
    assert sum(server_round == 8 for _, server_round in trained) >= 2
    evaluated = [(x["node"], x["round"]) for x in folder.metrics if x["phase"] == "evaluate"]
    assert len(evaluated) == len(set(evaluated))
    assert {node for node, server_round in evaluated if server_round == 8} == set(range(NODES))
    assert len(adapters(folder)) == NODES
