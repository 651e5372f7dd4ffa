"""Flower's simulation engine with real Ray actors, on arithmetic with a known result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from tests.apps.pure_mixing import start_value

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]

# In its own process, since Ray and Flower keep global state.
SIMULATE = """
import json, sys, torch
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from flwr_decaf.strategies import DLoRA
import tests.apps.pure_mixing as clients

n, rounds, every, attribute = json.loads(sys.argv[1])
server, outcome = ServerApp(), {}

@server.main()
def main(grid, context):
    try:
        for run in range(2):  # the second run finds the nodes in the state after the first
            held = []
            def record(contents, key):
                metrics = [next(iter(c.metric_records.values())) for c in contents]
                held.append([list(m["held"]) for m in metrics])
                return next(iter(contents[0].metric_records.values()))
            strategy = DLoRA("ring", evaluate_every=every, evaluate_metrics_aggr_fn=record)
            start = {"x": torch.zeros(2, dtype=torch.float64)}
            strategy.start(grid, ArrayRecord(start), num_rounds=rounds)
            final = [state["x"].tolist() for state in strategy.collect(grid).values()]
            outcome[run] = {"evaluated": held[-1], "final": final}
    except RuntimeError as error:
        outcome["error"] = str(error)

run_simulation(server, getattr(clients, attribute), num_supernodes=n,
               backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}})
print("OUTCOME", json.dumps(outcome))
"""


def simulate(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", SIMULATE, json.dumps(arguments)],
        capture_output=True, text=True, check=True, cwd=ROOT, timeout=240,
    )  # fmt: skip
    line = next(line for line in done.stdout.splitlines() if line.startswith("OUTCOME"))
    return json.loads(line.removeprefix("OUTCOME"))


@pytest.mark.parametrize(
    ("n", "rounds", "every"), [(5, 4, 2), pytest.param(3, 3, 1, marks=pytest.mark.slow)]
)
def test_k_rounds_of_pure_mixing_are_the_kth_power_of_w(n, rounds, every):  # invariant 9
    outcome = simulate(n, rounds, every, "app")
    start = np.stack([start_value(place).numpy() for place in range(n)])
    expected = np.linalg.matrix_power(build_mixing_matrix("ring", n), rounds) @ start
    for run in ("0", "1"):
        np.testing.assert_allclose(outcome[run]["evaluated"], expected, atol=1e-14)
        np.testing.assert_allclose(outcome[run]["final"], expected, atol=1e-14)


@pytest.mark.slow
def test_a_client_app_without_the_mod_is_detected_before_round_1():
    assert "ClientApp(mods=[peer_mixing, ...])" in simulate(2, 1, 1, "app_without_the_mod")["error"]


@pytest.mark.slow
def test_errors_are_reported_by_their_exception_and_evaluation_is_optional():
    code = """
import torch
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from flwr_decaf.strategies import DLoRA
import tests.apps.pure_mixing as clients
server = ServerApp()

@server.main()
def main(grid, context):
    failed = []
    strategy = DLoRA("ring", retries=0, on_failure=lambda *what: failed.append(what))
    strategy.start(grid, ArrayRecord({"x": torch.zeros(2, dtype=torch.float64)}), num_rounds=2)
    print("FAILED", failed)

run_simulation(server, clients.app_without_evaluation, num_supernodes=3)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=ROOT, timeout=240,
    )  # fmt: skip
    cause = "ValueError: no rows on node 1"
    assert f"FAILED [(1, 1, '{cause}'), (2, 1, '{cause}')]" in done.stdout
    assert done.stderr.count("The ClientApp has no evaluate function") == 1
    assert done.stderr.count(f"node 1 failed: {cause}") == 1
    assert done.stderr.count("Node 1 failed 2 times: ValueError") == 1
