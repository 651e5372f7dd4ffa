from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil

from flwr_decaf.cli.processes import running, watched
from flwr_decaf.cli.watchdog import processes_of

TERMINATED = """
import os, signal, sys, time
from pathlib import Path
from flwr_decaf.cli.processes import running
with running(["flower-superlink", "--insecure"], os.environ, Path(sys.argv[1])) as process:
    print(process.pid, flush=True)
    time.sleep(600)
"""


def test_a_terminated_process_ends_what_it_started(tmp_path):
    command = [sys.executable, "-c", TERMINATED, str(tmp_path / "log")]
    env = os.environ | {"FLWR_HOME": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        started = psutil.Process(int(process.stdout.readline()))
        process.terminate()
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not started.is_running()


KILLED = """
import os, sys, time
from pathlib import Path
from flwr_decaf.cli.processes import running, watched
home = Path(sys.argv[1])
env = os.environ | {"FLWR_HOME": str(home)}
with watched(home), running(["flower-superlink", "--insecure"], env, home / "log") as process:
    print(process.pid, flush=True)
    time.sleep(600)
"""


def test_children_end_when_their_parent_is_killed(tmp_path):
    (home := tmp_path / "home").mkdir()
    command = [sys.executable, "-c", KILLED, str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        started = psutil.Process(int(process.stdout.readline()))
        assert started in processes_of(str(home))
        process.kill()
    gone, _ = psutil.wait_procs([started], timeout=60)
    assert gone == [started]
    deadline = time.monotonic() + 10
    while home.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not home.exists()
    assert processes_of(str(home)) == []


def test_the_watchdog_ends_with_the_block(tmp_path):
    before = psutil.Process().children()
    with watched(tmp_path):
        (dog,) = set(psutil.Process().children()) - set(before)
    assert not dog.is_running()
    assert tmp_path.exists()


def test_the_previous_signal_handler_is_restored(tmp_path):
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with running(["flwr", "--version"], os.environ, tmp_path / "log") as process:
            process.wait(timeout=60)
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 10
        while not received and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]
