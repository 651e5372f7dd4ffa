"""Many nodes, a large hub, and large adapters in Flower's simulation, within 24 GB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from tests.apps.loads import start

pytestmark = [pytest.mark.engine, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
LIMIT = 24e9  # bytes


@pytest.mark.parametrize(
    ("topology", "nodes", "rounds", "floats", "cpus"),
    [
        ("ring", 1000, 10, 40_000, 1),
        ("star", 200, 3, 40_000, 1),
        ("ring", 4, 2, 100_000_000, 2),  # a working client holds about 7 GB, so one at a time
    ],
    ids=["1000 nodes", "a hub of 200", "400 MB"],
)
def test_mixing_is_exact_and_within_the_memory_limit(topology, nodes, rounds, floats, cpus):
    if psutil.virtual_memory().total < LIMIT:
        pytest.skip("requires 24 GB of memory")
    arguments = {"topology": topology, "nodes": nodes, "rounds": rounds, "floats": floats}
    arguments["cpus"] = cpus
    done = subprocess.run(
        [sys.executable, "-m", "tests.apps.loads", json.dumps(arguments)],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    result = json.loads(line.removeprefix("RESULT"))
    print(f"{result['seconds']:.0f} s, at most {result['peak'] / 1e9:.1f} GB")
    starts = np.array([start(node) for node in range(nodes)])
    expected = np.linalg.matrix_power(build_mixing_matrix(topology, nodes), rounds) @ starts
    np.testing.assert_allclose(np.array(result["held"]), np.stack([expected] * 2, 1), rtol=1e-5)
    assert result["peak"] < LIMIT
