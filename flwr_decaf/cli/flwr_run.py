"""``flwr run`` on an engine of its own, which is watched until it ends.

On its own, ``flwr run`` exits with 0 even if the run failed, and reinstalls the app's dependencies.
Here, the caller watches the run folder, which shows whether the run succeeded.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from flwr_decaf.cli.app_bundle import bundled_part
from flwr_decaf.cli.engine import Engine
from flwr_decaf.cli.processes import script, watched

_POLL_INTERVAL = 0.5  # seconds


def flwr_run(
    app: Path,
    run_config: Path,
    engine: Engine,
    log: Path | None = None,
    watch: Callable[[], None] = lambda: None,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Run a Flower app until it ends.

    Parameters
    ----------
    app : Path
        Folder with the app's pyproject.toml.
    run_config : Path
        TOML file with the settings.
    engine : Engine
        ``simulation(...)`` or ``deployment(...)``.
    log : Path, optional
        File for Flower's log; by default it goes to the output of this process.
    watch : callable
        Called every half second during the run; by default nothing.
    meanwhile : callable
        Called once, in a thread, while the engine starts; by default nothing. If it raises an
        exception, the run ends. ``watch`` is called only after it has returned.

    Raises
    ------
    RuntimeError
        If the SuperLink does not start, or ``flwr run`` itself fails. A run that fails later does
        not raise, because Flower exits with 0.
    """
    with (
        tempfile.TemporaryDirectory(prefix="flwr-decaf-") as home,
        watched(Path(home)),
        bundled_part(app) as part,
        ThreadPoolExecutor(1) as pool,
    ):
        command = [script("flwr"), "run", str(part), "local", "--stream"]
        command += ["--run-config", str(run_config)]
        if engine.federation:
            options = (f"{key}={value}" for key, value in engine.federation.items())
            command += ["--federation-config", " ".join(options)]
        started = pool.submit(meanwhile)

        def look() -> None:
            if started.done():
                started.result()
                watch()

        with engine.start(Path(home)) as env:
            _submit(command, env, log, look)
            started.result()


def _submit(
    command: Sequence[str], env: Mapping[str, str], log: Path | None, watch: Callable[[], None]
) -> None:
    with _output(log) as output:
        process = subprocess.Popen(command, env=dict(env), stdout=output, stderr=output)
        try:
            code = _wait(process, watch)
        finally:
            process.terminate()
    if code != 0:
        where = log or "its output"
        raise RuntimeError(f"'{' '.join(command)}' ended with status {code}; see {where}")


def _wait(process: subprocess.Popen[bytes], watch: Callable[[], None]) -> int:
    while True:
        watch()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=_POLL_INTERVAL)


def _output(log: Path | None) -> contextlib.AbstractContextManager[IO[bytes] | None]:
    if log is None:
        return contextlib.nullcontext()
    log.parent.mkdir(parents=True, exist_ok=True)
    return log.open("ab")
