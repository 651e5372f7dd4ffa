"""Decentralized SGD by a bare loop, by this package, and by other frameworks that can do it.

    python -m benchmarks.peers

Ten nodes train the CNN of examples/digits on a ring for 20 rounds of 4 steps. All frameworks start
from the same model, and read the same rows in the same order. p2pfl and NVFlare are installed in
environments of their own, in build/peers; one that cannot be installed, or that fails twice in
turn, is left out with the reason. Each runs alone, in turn with the others, three times for its
times and once for its memory.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.measure import busy_cores, report
from benchmarks.peers.environments import REQUIREMENTS, python_of
from benchmarks.peers.measuring import run

NODES, ROUNDS, STEPS, BATCH, TEST_ROWS, REPEATS = 10, 20, 4, 32, 360, 3
OWN = {"bare loop": "by_bare_loop", "flwr-decaf": "by_flwr_decaf"}


def arrays(rounds: int) -> dict[str, Any]:
    """Split the digits among the nodes as in examples/digits, and draw all batches."""
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    random = np.random.default_rng(0)
    rows = [np.arange(node, len(images) - TEST_ROWS, NODES) for node in range(NODES)]
    batches = [
        [random.permutation(own)[: STEPS * BATCH].reshape(STEPS, BATCH) for own in rows]
        for _ in range(rounds)
    ]
    return {
        "images": images[TEST_ROWS:], "labels": digits.target[TEST_ROWS:],
        "test_images": images[:TEST_ROWS], "test_labels": digits.target[:TEST_ROWS],
        "batches": np.array(batches),
    }  # fmt: skip


def installed() -> tuple[dict[str, Path], dict[str, str]]:
    """Return the interpreters of all frameworks, and the reasons why others are left out."""
    pythons, failures = {name: Path(sys.executable) for name in OWN}, {}
    for name in REQUIREMENTS:
        try:
            pythons[name] = python_of(name)
        except RuntimeError as error:
            failures[name] = str(error)
    return pythons, failures


def measured(pythons: Mapping[str, Path], failures: dict[str, str]) -> list[dict[str, Any]]:
    """Measure all frameworks in turn; one that fails is added to the failures."""
    inputs = arrays(ROUNDS)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (*OWN, *REQUIREMENTS)}
    for turn in range(REPEATS + 1):
        for name in [name for name in runs if name not in failures]:
            try:
                runs[name].append(_run(name, pythons[name], inputs, memory=turn == REPEATS))
            except RuntimeError as error:
                failures[name] = str(error)
    return rows_of(runs, failures)


def _run(name: str, python: Path, inputs: Mapping[str, Any], memory: bool) -> dict[str, float]:
    module = OWN.get(name, f"by_{name}")
    try:
        return run(python, module, inputs, memory)
    except RuntimeError as error:
        # NVFlare's simulator sometimes loses a connection at the start, and then waits forever.
        if name in OWN:
            raise SystemExit(f"{name}: {error}") from error
        print(f"{name}: {error}; it is run once more", flush=True)
        return run(python, module, inputs, memory)


def rows_of(
    runs: Mapping[str, list[dict[str, float]]], failures: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Make a row of medians for each framework, with ratios to the first, or with the reason."""
    medians = {
        name: {
            key: statistics.median(one[key] for one in each if key in one)
            for key in dict.fromkeys(key for one in each for key in one)
        }
        for name, each in runs.items()
        if name not in failures
    }
    first = medians[next(iter(runs))]
    return [
        {"framework": name, **_with_ratios(medians[name], first)}
        if name in medians
        else {"framework": name, "left-out": failures[name]}
        for name in runs
    ]


def _with_ratios(median: Mapping[str, float], first: Mapping[str, float]) -> dict[str, float]:
    ratios = {f"{key}-ratio": median[key] / first[key] for key in ("s/round", "start-s", "MB")}
    return {**median, **ratios}


def main() -> None:
    """Install the frameworks, measure them, and report."""
    pythons, failures = installed()
    busy = busy_cores()
    rows = measured(pythons, failures)
    report("peers", "Decentralized SGD: a small CNN, ten nodes on a ring", rows, busy)


if __name__ == "__main__":
    main()
