"""Simulations for benchmarks, each in its own process, which prints one JSON line.

Ray and Flower keep global state, so each simulation needs a new process.
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
from flwr_decaf.messages.shared_posts import POSTS_VARIABLE

_MARK = "MEASURED"


def measured(module: str, shared: bool = True, **arguments: Any) -> Any:
    """Run ``python -m module`` with its arguments as JSON, and return its measurements.

    Parameters
    ----------
    module : str
        Module that calls ``run`` or ``show``.
    shared : bool
        Whether actors share posts in files, as under ``flwr-decaf run``; by default True.
    **arguments
        Arguments of the module.

    Raises
    ------
    RuntimeError
        If it fails; the message contains the end of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        posts = {POSTS_VARIABLE: folder} if shared else {}
        done = subprocess.run(
            [sys.executable, "-m", module, json.dumps(arguments)],
            capture_output=True, text=True, check=False, env={**os.environ, **ENVIRONMENT, **posts},
        )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if not lines:
        raise RuntimeError(f"{module} with {arguments} failed: {done.stderr[-2000:]}")
    return json.loads(lines[-1].removeprefix(_MARK))


def run(serve: Callable[[Grid], Any], client: str, nodes: int, cpus: int = 1) -> None:
    """Run a server function with a ClientApp of ``benchmarks.clients``, and print its result."""
    from flwr.simulation import run_simulation

    server, result = ServerApp(), {}

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        result["measured"] = serve(grid)

    run_simulation(
        server,
        getattr(importlib.import_module("benchmarks.clients"), client),
        num_supernodes=nodes,
        backend_config={"client_resources": {"num_cpus": cpus, "num_gpus": 0.0}},
    )
    show(result["measured"])


def show(figures: Any) -> None:
    """Print measurements for ``measured`` to read."""
    print(_MARK + json.dumps(figures), flush=True)
