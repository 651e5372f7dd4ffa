"""A SuperLink that is killed during a run and started again, while its SuperNodes keep running."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager

import pytest

from flwr_decaf.cli.engine import Engine, superlink, supernode
from flwr_decaf.cli.flwr_run import flwr_run
from flwr_decaf.cli.processes import free_port
from flwr_decaf.cli.watchdog import end_all, processes_of
from flwr_decaf.config.files import to_toml
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.lock import status_of
from tests.engine.test_flwr_run import ROOT, SETTINGS, flwr_decaf_run, same_adapters

pytestmark = [pytest.mark.engine, pytest.mark.slow]
NODES = 2
SMALL = {"num-server-rounds": 3, "evaluate-every": 0, "train.local-steps": 1}


def kill_superlink(home):
    (victim,) = [p for p in processes_of(str(home)) if "flower-superlink" in " ".join(p.cmdline())]
    victim.kill()


def test_the_run_is_resumed_with_the_same_nodes(tmp_path):
    home, port = tmp_path / "flwr", str(free_port())
    home.mkdir()
    folder, nodes, killed_in = RunFolder(tmp_path / "run"), ExitStack(), []

    @contextmanager
    def start(_):
        with superlink(home, port=port) as env:
            if not killed_in:
                for place in range(NODES):
                    nodes.enter_context(supernode(home, env, place, NODES))
            yield env

    def run(name, watch=lambda: None, **settings):
        values = SETTINGS | SMALL | {"output-dir": str(tmp_path), "run-name": "run", **settings}
        (tmp_path / f"{name}.toml").write_text(to_toml(values))
        flwr_run(
            ROOT, tmp_path / f"{name}.toml", Engine(start, {}), tmp_path / f"{name}.log", watch
        )

    def kill_after_round_1():
        if not killed_in and (folder.checkpoints / "round-00001").exists():
            killed_in.append(max(line["round"] for line in folder.metrics))
            kill_superlink(home)

    try:
        with nodes:
            with pytest.raises(RuntimeError, match="ended with status 1"):
                run("first", kill_after_round_1)
            assert killed_in[0] < 3
            with superlink(home, port=port):  # the ServerApp that lost its SuperLink ends
                deadline = time.monotonic() + 120
                while status_of(folder) == "running" and time.monotonic() < deadline:
                    time.sleep(0.5)
            ended = folder.run
            run("second", **{"resume-from": str(folder.path)})
    finally:
        end_all(str(home))
    log = (tmp_path / "second.log").read_text()
    assert ended["status"] != "finished", ended
    assert folder.run["status"] == "finished", log[-3000:]
    assert folder.run["resumed"][0]["after-round"] >= 1
    assert "under a new node id" not in log
    trained = [(x["round"], x["node"]) for x in folder.metrics if x["phase"] == "train"]
    assert trained == [(t, node) for t in (1, 2, 3) for node in range(NODES)]
    status, log = flwr_decaf_run(tmp_path, "whole", f"--nodes={NODES}", **SMALL)
    assert status == 0, log
    assert same_adapters(RunFolder(tmp_path / "whole"), folder)
