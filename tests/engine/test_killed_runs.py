"""Runs whose processes are killed at random moments, and which are then resumed."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time

import psutil
import pytest

from flwr_decaf.cli.processes import script
from flwr_decaf.cli.watchdog import processes_of
from flwr_decaf.runs.folder import RunFolder
from tests.engine.test_flwr_run import ROOT, SETTINGS, adapters, family

pytestmark = [pytest.mark.engine, pytest.mark.slow]
SMALL = {**SETTINGS, "num-server-rounds": 4, "train.local-steps": 1, "data.max-train-samples": 120}
KILLS = int(os.environ.get("KILLS", "20"))
NODES = 3
TIMES = ("seconds", "elapsed", "process")  # suffixes of metrics that measure time


def start(output, name, log, *options, **settings):
    values = {**SMALL, "output-dir": output, "run-name": name, **settings}
    overrides = [f"--set={key}={value}" for key, value in values.items()]
    command = [script("flwr-decaf"), "run", "conf/ring.toml", f"--nodes={NODES}", *options]
    return psutil.Popen(
        [*command, *overrides], cwd=ROOT, stdout=log.open("a"), stderr=subprocess.STDOUT
    )


def command_of(process):
    with contextlib.suppress(psutil.Error):  # it may have ended
        return " ".join(process.cmdline())
    return ""


def everything(processes):
    return processes


def server_app(processes):
    return [p for p in processes if "flwr-simulation" in command_of(p)]  # it runs the ServerApp


def actor(processes):
    return [p for p in processes if "ClientAppActor" in command_of(p)][:1]


def results(folder):
    return [
        {key: value for key, value in line.items() if not key.endswith(TIMES)}
        for line in folder.metrics
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that is not interrupted."""
    output = tmp_path_factory.mktemp("whole")
    assert start(output, "run", output / "out").wait() == 0
    return RunFolder(output / "run")


@pytest.mark.parametrize("attempt", range(KILLS))
def test_a_killed_run_resumes_to_the_same_result(whole, tmp_path, attempt):
    draw = random.Random(attempt)
    victims = (everything, server_app, actor)[attempt % 3]
    log = tmp_path / "out"
    process = start(tmp_path, "run", log)
    folder, lines = RunFolder(tmp_path / "run"), draw.randrange(len(whole.metrics))
    while process.poll() is None and len(folder.metrics) < lines:
        time.sleep(0.1)
    time.sleep(draw.uniform(0, 2))
    killed = []
    while process.poll() is None and not killed:
        killed = victims([process, *family(process)])
        for victim in killed:
            victim.kill()
        time.sleep(0.2)
    status = process.wait(300)
    reached = max((line["round"] for line in folder.metrics), default=-1)
    print(f"{victims.__name__}: {len(killed)} killed in round {reached}, status {status}")
    if folder.run.get("status") != "finished":
        assert status != 0, log.read_text()
        settings = {"resume-from": tmp_path / "run"} if folder.run else {}
        again = start(tmp_path, "run", log, **settings)
        assert again.wait(600) == 0, log.read_text()
    assert results(folder) == results(whole)
    first, second = adapters(whole), adapters(folder)
    assert first.keys() == second.keys()
    for name, state in first.items():
        assert all((x == second[name][key]).all() for key, x in state.items())


def test_no_process_remains_after_the_command_is_killed(tmp_path):
    log = tmp_path / "out"
    process, folder = start(tmp_path, "run", log), RunFolder(tmp_path / "run")
    while process.poll() is None and not folder.metrics:
        time.sleep(0.1)
    (home,) = {p.environ().get("FLWR_HOME") for p in family(process)} - {None}
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while processes_of(home) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(home) == []


def test_a_running_run_is_not_resumed_and_a_killed_one_is_shown_as_interrupted(tmp_path):
    run, second = tmp_path / "run", tmp_path / "second"
    process = start(tmp_path, "run", tmp_path / "out", **{"train.local-steps": 40})
    folder = RunFolder(run)
    while process.poll() is None and len(folder.metrics) < NODES:
        time.sleep(0.1)
    owner, before = folder.run["process"]["id"], (run / "run.json").read_bytes()
    again = start(tmp_path, "run", second, **{"train.local-steps": 40, "resume-from": run})
    assert again.wait(60) == 2
    assert f"process {owner} on" in " ".join(second.read_text().split())
    assert (run / "run.json").read_bytes() == before
    for victim in [process, *family(process)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    process.wait(60)
    shown = subprocess.run(
        [script("flwr-decaf"), "show", run], capture_output=True, text=True, check=True
    )
    assert "(interrupted)" in " ".join(shown.stdout.split())
    assert folder.run["status"] == "running"  # no process was left to update it
