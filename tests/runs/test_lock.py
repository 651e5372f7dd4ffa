from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from flwr_decaf.config import flatten, parse_config
from flwr_decaf.config.comparison import runs_of
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.lock import check_not_running, locked, status_of, this_process
from flwr_decaf.runs.resume import check_resumable

HOLD = """
import sys, time
from pathlib import Path
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.lock import locked, this_process
folder = RunFolder(Path(sys.argv[1]))
with locked(folder):
    folder.update(status="running", process=this_process())
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", flatten(parse_config({})))


@pytest.fixture
def other(folder):
    """Another process that holds the run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_running_run_is_not_resumed_and_its_process_is_named(folder, other):
    assert status_of(folder) == "running"
    with pytest.raises(ValueError, match=rf"process {other.pid} on .* is running .*run; wait"):
        check_resumable(folder.path, runs_of(parse_config({})))
    folder.update(status="failed")  # as for a failed run that is being resumed
    with pytest.raises(ValueError, match=f"process {other.pid} on"):
        check_not_running(folder)


def test_only_one_process_holds_the_lock(folder, other, monkeypatch):
    monkeypatch.setattr("flwr_decaf.runs.lock._PATIENCE", 0.1)
    with pytest.raises(ValueError, match=f"process {other.pid} on"), locked(folder):
        pytest.fail("both hold it")


def test_a_killed_run_is_interrupted_and_its_lock_is_taken_over(folder, other, caplog):
    other.kill()
    other.wait()
    assert status_of(folder) == "interrupted"
    check_resumable(folder.path, runs_of(parse_config({})))
    with caplog.at_level(logging.WARNING, "flwr"), locked(folder):
        folder.update(process=this_process())
        assert status_of(folder) == "running"
        with pytest.raises(ValueError, match=f"process {this_process()['id']} on"):
            check_not_running(folder)
    assert f"left unfinished by process {other.pid} on" in caplog.text


def test_a_run_that_ended_keeps_its_status_and_releases_its_folder(folder):
    with locked(folder):
        folder.finish("finished")
    assert status_of(folder) == "finished"
    check_not_running(folder)


def test_a_run_of_another_machine_is_refused_until_its_lock_is_deleted(folder):
    (folder.path / ".lock").touch()
    folder.update(process={"id": 7, "host": "elsewhere"})
    assert status_of(folder) == "running"
    for refuse in (check_not_running, lambda folder: locked(folder).__enter__()):
        with pytest.raises(
            ValueError, match=r"started by process 7 on elsewhere .* delete .*\.lock"
        ):
            refuse(folder)
    (folder.path / ".lock").unlink()
    assert status_of(folder) == "interrupted"
    check_not_running(folder)
    folder.finish("failed")
    with locked(folder):
        pass


def test_a_folder_that_does_not_exist_yet_can_be_locked(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "new")
    with locked(folder):
        RunFolder.create(folder.path, {})
    assert status_of(folder) == "interrupted"
