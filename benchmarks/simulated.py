"""A simulation as a benchmark needs it: a process of its own that prints one JSON line.

Ray and Flower keep state for the whole process, so each simulation gets one.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from flwr_decaf.cli.processes import ENVIRONMENT
from flwr_decaf.messages.shared_posts import POSTS

_MARK = "MEASURED"


def measured(module: str, shared: bool = True, **asked: Any) -> Any:
    """Run ``python -m module`` with its arguments as JSON, and read what it measured.

    Parameters
    ----------
    module : str
        Calls ``run``.
    shared : bool
        Whether actors share posts in files, as under ``flwr-decaf run``.
    **asked
        Arguments.

    Raises
    ------
    RuntimeError
        With the end of its output, if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        posts = {POSTS: folder} if shared else {}
        done = subprocess.run(
            [sys.executable, "-m", module, json.dumps(asked)],
            capture_output=True, text=True, check=False, env={**os.environ, **ENVIRONMENT, **posts},
        )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if not lines:
        raise RuntimeError(f"{module} with {asked} failed: {done.stderr[-2000:]}")
    return json.loads(lines[-1].removeprefix(_MARK))


def run(serve: Callable[[Grid], Any], client: str, nodes: int, cpus: int = 1) -> None:
    """Run a server function and a ClientApp of ``benchmarks.clients``; print what it returns."""
    from flwr.simulation import run_simulation

    server, told = ServerApp(), {}

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        told["measured"] = serve(grid)

    run_simulation(
        server,
        getattr(importlib.import_module("benchmarks.clients"), client),
        num_supernodes=nodes,
        backend_config={"client_resources": {"num_cpus": cpus, "num_gpus": 0.0}},
    )
    print(_MARK + json.dumps(told["measured"]), flush=True)
