"""Runs that are refused, fail or are ended, with ``flwr run`` on their own SuperLink."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flwr_decaf.cli.engine import simulation
from flwr_decaf.cli.flwr_run import flwr_run
from flwr_decaf.cli.simulate import finished
from flwr_decaf.config.files import to_toml
from flwr_decaf.runs.folder import RunFolder
from tests.engine.test_flwr_run import ROOT, SETTINGS, family, flwr_decaf_run

pytestmark = pytest.mark.engine


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"lora.target-modules": "qery"}, "choose from its linear layers: classifier, dense, key"),
        (
            {"data.max-train-samples": 3},
            "num-supernodes must be <= the number of training rows",
        ),
    ],
)
def test_impossible_runs_are_refused_before_the_engine_starts(tmp_path, settings, line):
    status, log = flwr_decaf_run(tmp_path, "refused", **settings)
    assert status == 2
    *progress, error = log.splitlines()
    assert re.fullmatch(f"Error: .*{line}.*", error)  # one line
    assert all(re.match(r"\[ +[0-9.]+ min\] ", text) for text in progress)
    assert not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_a_run_that_fails_ends_with_its_cause_and_status_1(tmp_path):
    # Plain flwr run checks nothing in advance, and exits with 0 even if the run fails.
    values = {**SETTINGS, "lora.target-modules": "qery", "output-dir": str(tmp_path)}
    file = tmp_path / "fails.toml"
    file.write_text(to_toml({**values, "run-name": "fails"}))
    flwr_run(ROOT, file, simulation(nodes=2), tmp_path / "fails.log")
    folder = RunFolder(tmp_path / "fails")
    assert folder.run["status"] == "failed"
    assert folder.run["error"].startswith("ValueError: lora.target-modules must name layers")
    assert folder.metrics == []  # refused before any training
    with pytest.raises(RuntimeError, match=r"run fails failed: ValueError: lora.target-"):
        finished(folder, tmp_path)


@pytest.mark.slow
def test_a_terminated_command_ends_all_processes_that_it_started(tmp_path):
    command = [Path(sys.executable).parent / "flwr-decaf", "run", "conf/ring.toml", "--nodes=2"]
    settings = [f"--set=output-dir={tmp_path}", "--set=run-name=ended"]
    process = psutil.Popen([*command, *settings], cwd=ROOT, stdout=subprocess.DEVNULL)
    log = tmp_path / "ended" / "log.txt"
    while not (log.exists() and "ClientAppActor" in str([p.cmdline() for p in family(process)])):
        assert process.poll() is None
        time.sleep(1)
    started = family(process)
    assert len(started) > 5
    process.terminate()
    process.wait(60)
    _, alive = psutil.wait_procs(started, timeout=30)
    assert [p.cmdline() for p in alive] == []
