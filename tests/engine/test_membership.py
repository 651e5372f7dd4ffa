"""SuperNodes that join a deployment, and leave it, while a run is going on."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import pytest

from flwr_decaf.cli.engine import Engine, superlink, supernode
from flwr_decaf.cli.flwr_run import flwr_run
from flwr_decaf.cli.processes import end
from flwr_decaf.config.files import to_toml
from flwr_decaf.runs.folder import RunFolder
from tests.engine.test_flwr_run import ROOT

pytestmark = [pytest.mark.engine, pytest.mark.slow]
ROUNDS = 8
SETTINGS = {
    "strategy": "dlora", "num-server-rounds": ROUNDS, "evaluate-every": 0,
    "topology.membership": "open", "topology.quorum": 2, "topology.leave-after": 1,
    "model.task": "cnn", "model.name": "mlp", "model.width": 16, "train.local-steps": 1,
    "data.name": "package:flwr_decaf_demo/fashion_mnist", "data.image-size": 14,
    "data.max-train-samples": 120, "data.max-test-samples": 20,
}  # fmt: skip


def test_a_supernode_joins_and_another_leaves(tmp_path):
    folder, log, where = RunFolder(tmp_path / "run"), tmp_path / "log.txt", []
    values = SETTINGS | {"output-dir": str(tmp_path), "run-name": "run"}
    (tmp_path / "run.toml").write_text(to_toml(values))
    nodes, processes = ExitStack(), {}

    def start_node(place):
        processes[place] = nodes.enter_context(supernode(*where, place, 3))

    @contextmanager
    def start(home):
        with superlink(home) as env, nodes:
            where.extend((home, env))
            start_node(0)
            start_node(1)
            yield env

    def trained():
        return {(x["round"], x["node"]) for x in folder.metrics if x["phase"] == "train"}

    def come_and_go():
        seen = {node for _, node in trained()}
        if 0 in seen and 2 not in processes:
            start_node(2)
        if 2 in seen and 0 in processes:
            end(processes.pop(0))

    flwr_run(ROOT, tmp_path / "run.toml", Engine(start, {}), log, watch=come_and_go)
    text = log.read_text()
    assert folder.run["status"] == "finished", text[-3000:]
    assert "Node 2 has joined" in text
    assert "Node 0 has left" in text
    rounds = {t: {node for when, node in trained() if when == t} for t in range(1, ROUNDS + 1)}
    print(rounds)
    assert rounds[1] == {0, 1}
    assert rounds[ROUNDS] == {1, 2}
    assert {0, 1, 2} in rounds.values()
    assert sorted(adapters_of(folder)) == ["node-1", "node-2"]
    mixed = [x for x in folder.metrics if x["phase"] == "train" and x["round"] == ROUNDS]
    assert all(x["mixing-neighbours"] == 1 for x in mixed)


def adapters_of(folder):
    return [path.name for path in (folder.path / "adapters").iterdir()]
