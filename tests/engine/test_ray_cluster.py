"""Simulation on several machines: two local Ray nodes, joined through RAY_ADDRESS."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from flwr_decaf.cli.processes import environment, free_port, running, script
from flwr_decaf.runs.folder import RunFolder
from tests.engine.test_flwr_run import NODES, ROOT, SETTINGS

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@contextmanager
def ray_node(home, name, *options):
    """Run ``ray start --block`` as a child process that ends with the block."""
    command = ["ray", "start", "--block", "--num-cpus=1", "--disable-usage-stats", *options]
    env = {key: value for key, value in environment(home).items() if key != "RAY_ADDRESS"}
    with running(command, env, home / f"{name}.log") as process:
        yield psutil.Process(process.pid)


def wait_for_nodes(address, count, env):
    probe = (
        f"import ray, json; ray.init({address!r}, log_to_driver=False);"
        "print('ALIVE', sum(node['Alive'] for node in ray.nodes()))"
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        done = subprocess.run(
            [sys.executable, "-c", probe], capture_output=True, text=True, check=False, env=env
        )
        if f"ALIVE {count}" in done.stdout:
            return
    raise TimeoutError(done.stderr)


def test_actors_are_distributed_over_the_nodes_of_a_cluster(tmp_path):
    port = free_port()
    address = f"127.0.0.1:{port}"
    env = environment(tmp_path) | {"RAY_ADDRESS": address}
    head_options = ("--head", f"--port={port}", "--include-dashboard=false")
    with (
        # In its own folder, else Ray records this cluster, and other runs try to join it.
        tempfile.TemporaryDirectory(
            prefix="ray"
        ) as folder,  # short, since socket names are limited
        ray_node(tmp_path, "head", *head_options, f"--temp-dir={folder}") as head,
        ray_node(tmp_path, "second", f"--address={address}") as second,
    ):
        wait_for_nodes(address, 2, env)
        settings = {**SETTINGS, "output-dir": tmp_path, "run-name": "distributed"}
        overrides = [f"--set={key}={value}" for key, value in settings.items()]
        command = [script("flwr-decaf"), "run", "conf/ring.toml", f"--nodes={NODES}", *overrides]
        run = psutil.Popen(command, cwd=ROOT, env=env)
        on = {head: set(), second: set()}
        while run.poll() is None:
            for node, pids in on.items():
                pids |= {child.pid for child in node.children(recursive=True)}
            time.sleep(1)
    assert run.returncode == 0
    lines = Path(tmp_path / "distributed" / "metrics.jsonl").read_text().splitlines()
    worked = {json.loads(line)["process"] for line in lines}
    assert len(worked) == 2
    assert all(len(worked & pids) == 1 for pids in on.values()), (worked, on)
    assert RunFolder(tmp_path / "distributed").run["status"] == "finished"
