"""The deployment engine, with SuperLink and SuperNodes as processes on this machine."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file

from flwr_decaf.cli.engine import Engine, deployment, superlink, supernode
from flwr_decaf.cli.flwr_run import flwr_run
from flwr_decaf.cli.processes import end
from flwr_decaf.config.files import to_toml
from flwr_decaf.runs.folder import RunFolder
from tests.engine.test_flwr_run import ROOT, SETTINGS, adapters, flwr_decaf_run, same_adapters

pytestmark = pytest.mark.engine
DIGITS = Path(__file__).parents[2] / "examples" / "digits"


def test_an_example_runs_unchanged(tmp_path):
    saved, settings, log = (tmp_path / name for name in ("model", "run.toml", "log.txt"))
    settings.write_text(f'output = "{saved}"\nnum-server-rounds = 1\n')
    flwr_run(DIGITS, settings, deployment(nodes=2), log)
    assert saved.exists(), log.read_text()[-3000:]
    state = load_file(saved)
    assert all(bool(x.isfinite().all()) for x in state.values())
    rows = -(-(1437 // 2) // 32)  # of 1437 digits to train on, in batches of 32
    assert abs(state["layers.1.num_batches_tracked"].item() - rows) <= 1


@pytest.mark.slow
def test_the_adapters_are_those_of_the_simulation(tmp_path):
    three = {"num-server-rounds": 3, "evaluate-every": 3}
    for engine in ("simulation", "deployment"):
        status, log = flwr_decaf_run(tmp_path, engine, f"--engine={engine}", **three)
        assert status == 0, log
    assert same_adapters(*(RunFolder(tmp_path / name) for name in ("simulation", "deployment")))


@pytest.mark.slow
def test_a_supernode_that_is_killed_and_restarted_rejoins(tmp_path):
    saved, settings, log = (tmp_path / name for name in ("model", "run.toml", "log.txt"))
    settings.write_text(f'output = "{saved}"\n')
    nodes, victims = ExitStack(), []

    def start_node_2():
        return nodes.enter_context(supernode(*where, 2, 3))

    where = []

    @contextmanager
    def start(home):
        with superlink(home) as env, nodes:
            where.extend((home, env))
            for place in (0, 1):
                nodes.enter_context(supernode(home, env, place, 3))
            victims.append(start_node_2())
            yield env

    def kill_in_round_2():
        if len(victims) == 1 and log.exists() and "[ROUND 2/5]" in log.read_text():
            end(victims[0])
            victims.append(start_node_2())

    flwr_run(DIGITS, settings, Engine(start, {}), log, watch=kill_in_round_2)
    text = log.read_text()
    assert len(victims) == 2
    assert saved.exists(), text[-3000:]
    assert "Round 2: node 2 failed" in text
    assert "Node 2 is back under a new node id" in text
    assert not any(f"Round {t}: node" in text for t in (4, 5))  # complete again
    counter = load_file(saved)["layers.1.num_batches_tracked"].item()
    assert counter == 5 * 15  # the counters are node 0's, which missed no round


ROWS = {"art": "paint and brush", "food": "bread and soup", "sport": "the ball game"}


@pytest.mark.slow
def test_nodes_with_their_own_files_as_in_the_simulation(tmp_path):
    classes = [["art", "sport"], ["art", "food", "sport"], ["food", "sport"]]
    for node, (size, names) in enumerate(zip((20, 33, 26), classes, strict=True)):
        lines = [f"{ROWS[names[i % len(names)]]} {i},{names[i % len(names)]}" for i in range(size)]
        (tmp_path / f"node-{node}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    own = f"--node-data={tmp_path}/node-{{}}.csv"
    without = {"data.name": "", "data.max-train-samples": 0}
    (tmp_path / "posts").mkdir()
    for engine, store in (("simulation", ""), ("deployment", str(tmp_path / "posts"))):
        options = (f"--engine={engine}", own, "--nodes=3")
        settings = {**without, "posts.store": store}
        status, log = flwr_decaf_run(tmp_path, engine, *options, **settings)
        assert status == 0, log
    assert not list((tmp_path / "posts").iterdir())  # they were there, and were deleted
    simulated, deployed = (RunFolder(tmp_path / name) for name in ("simulation", "deployment"))
    assert deployed.run["labels"] == ["art", "food", "sport"]
    assert [x["train"] for x in deployed.run["own-rows"]] == [20, 33, 26]
    assert [x["classes"] for x in deployed.run["own-rows"]] == classes
    assert {x["node"] for x in deployed.metrics if "local-accuracy" in x} == {0, 1, 2}
    assert len(adapters(deployed)) == 3
    assert same_adapters(simulated, deployed)


@pytest.mark.slow
def test_nodes_name_their_own_files_and_their_own_store(tmp_path):
    (tmp_path / "posts").mkdir()
    for node in range(2):
        lines = [f"{ROWS[name]} {i},{name}" for i in range(8) for name in ("art", "sport")]
        (tmp_path / f"node-{node}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    values = SETTINGS | {
        "data.name": "", "data.max-train-samples": 0, "num-server-rounds": 1, "evaluate-every": 0,
        "output-dir": str(tmp_path), "run-name": "run", "posts.store": f"file://{tmp_path}/posts",
    }  # fmt: skip
    (tmp_path / "run.toml").write_text(to_toml(values))

    @contextmanager
    def start(home):
        with superlink(home) as env, ExitStack() as nodes:
            for place in range(2):
                own = f"data-path='{tmp_path}/node-{place}.csv' label-column='label'"
                own += f" posts-store='{tmp_path}/posts'"
                nodes.enter_context(supernode(home, env, place, 2, own))
            yield env

    flwr_run(ROOT, tmp_path / "run.toml", Engine(start, {}), tmp_path / "log.txt")
    run = RunFolder(tmp_path / "run").run
    assert run["status"] == "finished", (tmp_path / "log.txt").read_text()[-3000:]
    assert run["labels"] == ["art", "sport"]
    assert "posts in its message" not in (tmp_path / "log.txt").read_text()
    assert not list((tmp_path / "posts").iterdir())
