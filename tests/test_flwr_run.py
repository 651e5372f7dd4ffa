"""Real ``flwr run``s, each on a SuperLink of its own, checked by the run folders they leave."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from flwr_decaf.clients.tasks import load_node_data, load_task
from flwr_decaf.clients.training import evaluate_rows
from flwr_decaf.config import parse_config
from flwr_decaf.data.sources import resolve_path
from flwr_decaf.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
NODES = 4
SETTINGS = {
    "num-server-rounds": 2,
    "evaluate-every": 1,
    "train.local-steps": 2,
    "train.batch-size": 8,
    "data.max-train-samples": 240,
    "data.max-test-samples": 60,
    "data.max-length": 24,
}


def flwr_decaf_run(output, name, cpus=1, **settings):
    """Run the command as a user does; return its exit status and its output."""
    values = {**SETTINGS, "run-name": name, "output-dir": output, **settings}
    overrides = [f"--set={key.replace('_', '-')}={value}" for key, value in values.items()]
    command = [
        Path(sys.executable).parent / "flwr-decaf", "run", "conf/ring.toml",
        f"--nodes={NODES}", f"--cpus={cpus}", *overrides,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def decaf(output):
    status, log = flwr_decaf_run(output, "decaf")
    assert status == 0, log
    return RunFolder(output / "decaf"), log


def adapters(folder):
    return {
        path.name: load_file(path / "adapter_model.safetensors")
        for path in sorted((folder.path / "adapters").iterdir())
    }


def test_the_run_folder_tells_the_whole_run(decaf):
    folder, log = decaf
    run = folder.run
    assert run["status"] == "finished"
    assert run["settings"]["strategy"] == "decaf"
    assert run["network"]["lambda2"] == pytest.approx(1 / 3)  # a ring of four
    lines = {(line["phase"], line["round"], line["node"]) for line in folder.metrics}
    assert lines == {
        *(("evaluate", t, node) for t in (0, 1, 2) for node in range(NODES)),
        *(("train", t, node) for t in (1, 2) for node in range(NODES)),
    }
    assert "decaf · ring · accuracy after round 2" in log
    assert f"Run folder: {folder.path}" in log


def test_bytes_are_two_neighbours_times_the_adapter(decaf):  # invariant 11
    lora = 12 * 8 * (384 + 384)  # query and value of 6 layers, rank 8
    head = 384 * 20 + 20
    sent = {line["bytes-sent"] for line in decaf[0].metrics if line["phase"] == "train"}
    assert sent == {2 * 4 * (lora + head)}


def test_every_adapter_loads_with_peft_and_scores_as_reported(decaf):
    folder, _ = decaf
    config = parse_config(folder.run["settings"])
    task = load_task(config.model, config.lora, config.data)
    reported = {
        line["node"]: line
        for line in folder.metrics
        if line["phase"] == "evaluate" and line["round"] == 2
    }
    for node in range(NODES):
        base = AutoModelForSequenceClassification.from_pretrained(
            resolve_path(config.model.name), num_labels=20
        )
        path = folder.path / "adapters" / f"node-{node}"
        model = PeftModel.from_pretrained(base, path)
        rows = load_node_data(config.model, config.lora, config.data, config.seed, node, NODES)
        loaded = type(task)(model, task.encode, task.collate, task.length, task.score)
        for part, prefix in ((rows.test, ""), (rows.local_test, "local-")):
            scores = evaluate_rows(loaded, part, 8)
            assert scores["accuracy"] == reported[node][f"{prefix}accuracy"]
            assert scores["loss"] == pytest.approx(reported[node][f"{prefix}loss"], rel=1e-5)


def test_nodes_end_with_models_of_their_own(decaf):
    states = list(adapters(decaf[0]).values())
    assert len(states) == NODES
    assert all(torch.isfinite(x).all() for state in states for x in state.values())
    for other in states[1:]:
        assert not any(torch.equal(x, other[name]) for name, x in states[0].items())


def test_the_same_seed_gives_the_same_bits_whatever_the_number_of_actors(decaf, output):
    # All cores for one client: one actor runs all nodes, instead of as many actors as cores.
    status, log = flwr_decaf_run(output, "one-actor", cpus=os.cpu_count())
    assert status == 0, log
    first, second = adapters(decaf[0]), adapters(RunFolder(output / "one-actor"))
    assert first.keys() == second.keys()
    for name, state in first.items():
        assert all(torch.equal(x, second[name][key]) for key, x in state.items())


def test_fedavg_runs_through_the_same_client_app(output):
    status, log = flwr_decaf_run(output, "fedavg", strategy="fedavg")
    assert status == 0, log
    folder = RunFolder(output / "fedavg")
    assert list(adapters(folder)) == ["global"]
    last = [m for m in folder.metrics if m["phase"] == "evaluate" and m["round"] == 2]
    assert len(last) == NODES
    assert len({line["accuracy"] for line in last}) == 1  # one model for all


def test_a_run_that_fails_ends_with_its_cause_and_status_1(output):
    status, log = flwr_decaf_run(output, "no-target", **{"lora.target-modules": "qery"})
    assert status == 1
    assert "the run failed: ValueError: lora.target-modules must name layers" in log
    folder = RunFolder(output / "no-target")
    assert folder.run["status"] == "failed"
    assert folder.metrics == []  # refused before any training


def test_the_bundle_contains_every_module(tmp_path):
    flwr = Path(sys.executable).parent / "flwr"
    subprocess.run([flwr, "build", "--app", ROOT], check=True, capture_output=True, cwd=tmp_path)
    (bundle,) = tmp_path.glob("*.fab")
    names = set(zipfile.ZipFile(bundle).namelist())
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "flwr_decaf").rglob("*.py")}
    assert modules <= names
    assert not [name for name in names if re.match(r"tests|benchmarks|runs", name)]
