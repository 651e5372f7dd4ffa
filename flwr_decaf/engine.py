"""Starting ``flwr run`` so that it can be relied on.

``flwr run`` alone exits 0 when the run failed, re-installs the app's dependencies, and hands the
run to a SuperLink that outlives it and keeps its first caller's directory and environment. Here a
SuperLink of this run's own is started on a free port with the environment that the run needs, and
ended with it; whether the run succeeded is read from its run folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

import psutil

_START_LIMIT = 60.0  # seconds for the SuperLink to answer
_LOOK_EVERY = 0.5  # seconds
_STOP_LIMIT = 10.0  # seconds for it to go before it is killed

ENVIRONMENT = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Actors that wait for one another in a spin loop cost up to six times on few cores.
    "OMP_WAIT_POLICY": "passive",
    "TOKENIZERS_PARALLELISM": "false",
    # A bar per actor and split would bury the rounds in the log.
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def flwr_run(
    app: Path,
    run_config: Path,
    federation: Mapping[str, object],
    log: Path | None = None,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Run a Flower app to its end on a simulation SuperLink of its own.

    Parameters
    ----------
    app : Path
        Folder with the app's pyproject.toml.
    run_config : Path
        TOML file with the settings.
    federation : mapping
        Flower's federation-config, e.g. ``{"num-supernodes": 10}``.
    log : Path, optional
        Where Flower's log goes; by default to this process's own output.
    watch : callable
        Called every half second while the run goes on.

    Raises
    ------
    RuntimeError
        If the SuperLink does not start, or ``flwr run`` itself fails. A run that fails later does
        not show here: Flower exits 0 then.
    """
    with tempfile.TemporaryDirectory(prefix="flwr-decaf-") as home, superlink(Path(home)) as env:
        options = " ".join(f"{key}={value}" for key, value in federation.items())
        command = [
            _script("flwr"), "run", str(app), "local", "--stream",
            "--run-config", str(run_config), "--federation-config", options,
        ]  # fmt: skip
        with _output(log) as output:
            process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
            try:
                code = _wait(process, watch)
            finally:
                process.terminate()
        if code != 0:
            where = log or "its output"
            raise RuntimeError(f"'{' '.join(command)}' ended with status {code}; see {where}")


@contextlib.contextmanager
def superlink(home: Path) -> Iterator[dict[str, str]]:
    """Start a simulation SuperLink whose files lie in ``home``; end it, and all it started, after.

    Yields
    ------
    dict of str to str
        The environment in which ``flwr`` finds it under the name "local".
    """
    port = _free_port()
    env = {**os.environ, **ENVIRONMENT, "FLWR_HOME": str(home)}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = "127.0.0.1:{port}"\n'
        "insecure = true\n",
        encoding="utf8",
    )
    log = (home / "superlink.log").open("wb")
    process = subprocess.Popen(
        [
            _script("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess",
            "--host", "127.0.0.1", "--port", str(port), "--database", str(home / "state.db"),
        ],
        env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    # Whoever ends this process politely wants the SuperLink and its actors gone as well.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        _wait_until_up(process, port, home / "superlink.log")
        yield env
    finally:
        _end_family(process)
        log.close()


def _wait(process: subprocess.Popen[bytes], watch: Callable[[], None]) -> int:
    while True:
        watch()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=_LOOK_EVERY)


def _output(log: Path | None) -> contextlib.AbstractContextManager[IO[bytes] | None]:
    if log is None:
        return contextlib.nullcontext()
    log.parent.mkdir(parents=True, exist_ok=True)
    return log.open("wb")


def _wait_until_up(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return
        time.sleep(0.2)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"Flower's SuperLink did not come up on port {port}: {tail}")


def _end_family(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, also what has left its process group."""
    with contextlib.suppress(psutil.NoSuchProcess):
        leader = psutil.Process(process.pid)
        # Asked before the leader goes: Ray's agents outlive it and belong to nobody then.
        family = [leader, *leader.children(recursive=True)]
        leader.terminate()
        _, alive = psutil.wait_procs(family, timeout=_STOP_LIMIT)
        for survivor in alive:
            survivor.kill()
        psutil.wait_procs(alive, timeout=_STOP_LIMIT)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _script(name: str) -> str:
    # Flower's scripts beside this interpreter, not whatever PATH has first.
    return str(Path(sys.executable).parent / name)
