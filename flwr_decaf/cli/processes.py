"""Starting Flower's processes in a suitable environment, and ending them reliably."""

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

_START_LIMIT = 60.0  # seconds for a SuperLink to respond
_STOP_LIMIT = 10.0  # seconds for a process to end before it is killed

ENVIRONMENT = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Seconds between two polls for a run to start, by default 1.
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    # Workers that Ray starts in advance lack the environment that Flower requires, and stay idle.
    "RAY_prestart_worker_first_driver": "0",
    # On few cores, actors that spin while they wait for each other can be six times slower.
    "OMP_WAIT_POLICY": "passive",
    "TOKENIZERS_PARALLELISM": "false",
    # One progress bar per actor and split would clutter the log.
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def environment(home: Path) -> dict[str, str]:
    """Make the environment of Flower's processes, which keep their files in ``home``."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    # Without an address, Ray joins the cluster that was last started on this machine.
    ray = {"RAY_ADDRESS": os.environ.get("RAY_ADDRESS", "local")}
    started = {STARTED_AT: str(time.time())}
    return {**os.environ, **ENVIRONMENT, **ray, **started, "FLWR_HOME": str(home), "PATH": path}


@contextlib.contextmanager
def running(
    command: Sequence[str], env: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of Flower's scripts during the block, and then end it and its children.

    Parameters
    ----------
    command : sequence of str
        Name of the script, which must be installed next to this interpreter, and its arguments.
    env : mapping of str to str
        Environment of the process.
    log : Path
        File for the output.
    """
    # A process that receives SIGTERM must also end the processes that it started.
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
    """End all processes with Flower's files in ``home`` if this process is killed in the block.

    A killed process cannot end its children itself, so a watchdog process does.
    """
    command = [sys.executable, "-P", watchdog.__file__, str(home)]
    # In its own session, since Ctrl-C must reach only this process, which then ends the others.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        process.communicate(b"done")


def wait_until_up(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until a SuperLink responds.

    Raises
    ------
    RuntimeError
        If it ends or does not respond; the message contains the end of its log.
    """
    deadline = time.monotonic() + _START_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return
        time.sleep(0.2)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"Flower's SuperLink did not start on port {port}: {tail}")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its descendants, including those that left its process group."""
    with contextlib.suppress(psutil.NoSuchProcess):
        leader = psutil.Process(process.pid)
        # List them before the leader ends, since Ray's agents outlive it and lose their parent.
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
    """Find a free TCP port on the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def script(name: str) -> str:
    """Return the path of a script next to this interpreter, whatever PATH contains."""
    return str(Path(sys.executable).parent / name)
