"""One run of a framework in a process of its own: its seconds, accuracy and peak memory."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.peers.digits import FOLDER, INPUTS, LOG
from benchmarks.peers.environments import ROOT, last_line
from flwr_decaf.cli.processes import ENVIRONMENT, end
from flwr_decaf.messages.shared_posts import POSTS_VARIABLE

LIMIT = 300.0  # seconds for a run
_PERIOD = 0.25  # seconds between two samples of the memory


def run(
    python: Path, module: str, arrays: Mapping[str, Any], memory: bool = False
) -> dict[str, float]:
    """Run the main function of a module of ``benchmarks.peers`` in an environment.

    Parameters
    ----------
    python : Path
        Interpreter of the environment.
    module : str
        Name of the module.
    arrays : mapping
        Fields of ``digits.Inputs`` as NumPy arrays.
    memory : bool
        Whether to measure the peak memory, which slows the run down, instead of times; by default
        False.

    Returns
    -------
    dict of str to float
        Those of ``figures``, or "MB".

    Raises
    ------
    RuntimeError
        If it fails, is incomplete or takes longer than ``LIMIT``; the message says why.
    """
    rounds, nodes = arrays["batches"].shape[:2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / INPUTS, **arrays)
        (folder / "posts").mkdir()
        # Not with -m, since workers must find its classes in the module of this name.
        command = [str(python), "-c", f"from benchmarks.peers import {module}; {module}.main()"]
        peak = _execute(command, folder, memory)
        log = folder / LOG
        entries = [json.loads(line) for line in log.read_text("utf8").splitlines()]
    result = figures(entries, rounds, nodes)  # also rejects a run that ended too early
    return {"MB": peak / 1e6} if memory else result


def figures(entries: Iterable[Mapping[str, Any]], rounds: int, nodes: int) -> dict[str, float]:
    """Compute the figures of a run from its log.

    A round ends when all nodes have trained. Its seconds are the median of the times between the
    ends of rounds, so the first round is left out. The start lasts until the first training step of
    any node has ended.

    Parameters
    ----------
    entries : iterable of mapping
        Entries of ``digits.note``, and one with the time at which the process was ``launched``.
    rounds, nodes : int
        Numbers of rounds and nodes that the log must contain.

    Returns
    -------
    dict of str to float
        "s/round", "start-s", "total-s" from the launch to the end of the last round, and the mean
        "accuracy" of the nodes.

    Raises
    ------
    RuntimeError
        If the log is incomplete.
    """
    rows = list(entries)
    launched = next(row["at"] for row in rows if "launched" in row)
    trained = {(row["trained"], row["node"]): row["at"] for row in rows if "trained" in row}
    accuracies = {row["node"]: row["accuracy"] for row in rows if "accuracy" in row}
    if len(trained) < rounds * nodes or len(accuracies) < nodes:
        raise RuntimeError(
            f"{len(trained)} of {rounds * nodes} calls trained, {len(accuracies)} of {nodes} nodes "
            "were evaluated"
        )
    ends = [max(trained[t, i] for i in range(nodes)) for t in range(rounds)]
    return {
        "s/round": statistics.median(after - before for before, after in pairwise(ends)),
        "start-s": min(row["at"] for row in rows if "started" in row) - launched,
        "total-s": ends[-1] - launched,
        "accuracy": statistics.mean(accuracies.values()),
    }


def _execute(command: list[str], folder: Path, memory: bool) -> float:
    env = {
        **os.environ, **ENVIRONMENT, "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT),
        FOLDER: str(folder), POSTS_VARIABLE: str(folder / "posts"),
    }  # fmt: skip
    output = folder / "output.txt"
    with output.open("wb") as file, (folder / LOG).open("a") as log:
        print(json.dumps({"at": time.time(), "launched": True}), file=log, flush=True)
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=file, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            peak = _peak_memory(process) if memory else 0.0
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"did not finish in {LIMIT:.0f} s") from None
        finally:
            end(process)
    if process.returncode:
        raise RuntimeError(last_line(output.read_text(errors="replace")))
    return peak


def _peak_memory(process: subprocess.Popen[bytes]) -> float:
    """Sample the proportional set size of a process and its descendants until it ends."""
    peak, deadline = 0.0, time.monotonic() + LIMIT
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise subprocess.TimeoutExpired(process.args, LIMIT)
        with contextlib.suppress(psutil.NoSuchProcess):
            leader = psutil.Process(process.pid)
            family = [leader, *leader.children(recursive=True)]
            peak = max(peak, sum(_proportional_size(member) for member in family))
        time.sleep(_PERIOD)
    return peak


def _proportional_size(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has ended since it was listed
        return 0.0
