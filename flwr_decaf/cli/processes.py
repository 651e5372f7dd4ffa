"""Starting Flower's processes in an environment that suits them, and ending them for good."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from flwr_decaf.app import STARTED_AT
from flwr_decaf.cli import watchdog

_START_LIMIT = 60.0  # seconds for a SuperLink to answer
_STOP_LIMIT = 10.0  # seconds for a process to go before it is killed


ENVIRONMENT = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Seconds between two looks for a run that is to be started: 1 by default.
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    # Workers that Ray starts in advance lack the environment that Flower asks for: idle for good.
    "RAY_prestart_worker_first_driver": "0",
    # Actors that wait for one another in a spin loop cost up to six times on few cores.
    "OMP_WAIT_POLICY": "passive",
    "TOKENIZERS_PARALLELISM": "false",
    # A bar per actor and split would bury the rounds in the log.
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def environment(home: Path) -> dict[str, str]:
    """Make the environment of Flower's processes, with their own files in ``home``."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    # Without an address Ray joins whatever cluster was last started on this machine.
    ray = {"RAY_ADDRESS": os.environ.get("RAY_ADDRESS", "local")}
    asked = {STARTED_AT: str(time.time())}
    return {**os.environ, **ENVIRONMENT, **ray, **asked, "FLWR_HOME": str(home), "PATH": path}


@contextlib.contextmanager
def running(
    command: Sequence[str], env: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of Flower's scripts beside the block; end it, and all it started, after.

    Parameters
    ----------
    command : sequence of str
        The script's name first; it is taken from beside this interpreter.
    env : mapping of str to str
        Environment.
    log : Path
        File for its output.
    """
    # Whoever ends this process politely wants those it started gone as well.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [script(command[0]), *command[1:]],
            env=dict(env), stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            end(process)
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def watched(home: Path) -> Iterator[None]:
    """Have all processes with Flower's files in ``home`` end, should this one be killed.

    Without it they would outlive this process, which cannot end them any more.
    """
    command = [sys.executable, "-P", watchdog.__file__, str(home)]
    # In a session of its own: Ctrl-C is for this process, which then ends the others itself.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        process.communicate(b"done")


def wait_until_up(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait for a SuperLink to answer.

    Raises
    ------
    RuntimeError
        If it ends or stays silent, with the end of its log.
    """
    deadline = time.monotonic() + _START_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return
        time.sleep(0.2)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"Flower's SuperLink did not come up on port {port}: {tail}")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, also what has left its process group."""
    with contextlib.suppress(psutil.NoSuchProcess):
        leader = psutil.Process(process.pid)
        # Asked before the leader goes: Ray's agents outlive it and belong to nobody then.
        family = [leader, *leader.children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.terminate()
        _, alive = psutil.wait_procs(family, timeout=_STOP_LIMIT)
        for survivor in alive:
            survivor.kill()
        psutil.wait_procs(alive, timeout=_STOP_LIMIT)
    process.wait()


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def script(name: str) -> str:
    """Get a script beside this interpreter, not whatever PATH has first."""
    return str(Path(sys.executable).parent / name)
