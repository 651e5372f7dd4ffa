"""Many nodes, a hub of many, and large adapters: through Flower's simulation, in 24 GB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from flwr_decaf.topology.mixing_matrix import build_network
from tests.apps.loads import start

pytestmark = [pytest.mark.engine, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
LIMIT = 24e9  # bytes


@pytest.mark.parametrize(
    ("topology", "nodes", "rounds", "floats", "cpus"),
    [
        ("ring", 1000, 10, 40_000, 1),
        ("star", 200, 3, 40_000, 1),
        ("ring", 4, 2, 100_000_000, 2),  # a client at work holds some 7 GB: one at a time
    ],
    ids=["1000 nodes", "a hub of 200", "400 MB"],
)
def test_loads(topology, nodes, rounds, floats, cpus):
    if psutil.virtual_memory().total < LIMIT:
        pytest.skip("takes 24 GB")
    asked = {"topology": topology, "nodes": nodes, "rounds": rounds, "floats": floats}
    asked["cpus"] = cpus
    done = subprocess.run(
        [sys.executable, "-m", "tests.apps.loads", json.dumps(asked)],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("TOLD"))
    told = json.loads(line.removeprefix("TOLD"))
    print(f"{told['seconds']:.0f} s, at most {told['peak'] / 1e9:.1f} GB")
    starts = np.array([start(node) for node in range(nodes)])
    expected = np.linalg.matrix_power(build_network(topology, nodes), rounds) @ starts
    np.testing.assert_allclose(np.array(told["held"]), np.stack([expected] * 2, 1), rtol=1e-5)
    assert told["peak"] < LIMIT
