"""Runs with ``flwr run``, each on its own SuperLink, checked by their run folders."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from flwr_decaf.clients.loading import load_node_data, load_task
from flwr_decaf.clients.training import evaluate_rows
from flwr_decaf.config import parse_config
from flwr_decaf.data.sources import resolve_path
from flwr_decaf.runs.folder import RunFolder

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
NODES = 4
SETTINGS = {
    "num-server-rounds": 2,
    "evaluate-every": 1,
    "train.local-steps": 2,
    "train.batch-size": 8,
    "data.max-train-samples": 240,
    "data.max-test-samples": 20,
    "data.max-local-test-samples": 10,
    "data.max-length": 12,
}


def flwr_decaf_run(output, name, *options, **settings):
    """Run the command as a user does, and return its exit status and output."""
    values = {**SETTINGS, "run-name": name, "output-dir": output, **settings}
    overrides = [f"--set={key.replace('_', '-')}={value}" for key, value in values.items()]
    command = [
        Path(sys.executable).parent / "flwr-decaf", "run", "conf/ring.toml",
        f"--nodes={NODES}", *options, *overrides,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def comparison(output):
    strategies = "decaf, fedavg, local-only, dlora-fa, centralized"
    status, log = flwr_decaf_run(output, "comparison", strategy=strategies, trackers="tensorboard")
    assert status == 0, log
    return {name: RunFolder(output / "comparison" / name) for name in strategies.split(", ")}, log


@pytest.fixture(scope="module")
def decaf(comparison):
    return comparison[0]["decaf"]


@pytest.fixture(scope="module")
def alone(output):
    status, log = flwr_decaf_run(output, "decaf")
    assert status == 0, log
    return RunFolder(output / "decaf"), log


def adapters(folder):
    return {
        path.name: load_file(path / "adapter_model.safetensors")
        for path in sorted((folder.path / "adapters").iterdir())
    }


def same_adapters(first, second):
    """Say whether the nodes of two runs hold the same adapters, to the bit."""
    first, second = adapters(first), adapters(second)
    assert first.keys() == second.keys()
    return all(
        torch.equal(x, second[name][key])
        for name, state in first.items()
        for key, x in state.items()
    )


def test_the_run_folder_describes_the_run(decaf):
    run = decaf.run
    assert run["status"] == "finished"
    assert run["settings"]["strategy"] == "decaf"
    assert run["labels"][10] == "rec.sport.hockey"
    assert run["network"]["lambda2"] == pytest.approx(1 / 3)  # a ring of four
    lines = {(line["phase"], line["round"], line["node"]) for line in decaf.metrics}
    assert lines == {
        *(("evaluate", t, node) for t in (0, 1, 2) for node in range(NODES)),
        *(("train", t, node) for t in (1, 2) for node in range(NODES)),
    }


@pytest.mark.slow
def test_a_single_run_ends_with_its_table_and_what_to_do_next(alone):
    folder, log = alone
    assert f"start-up: {folder.run['start-up-seconds']:.0f} s; time: training" in log
    assert "decaf · ring · accuracy after round 2" in log
    assert f"Run folder: {folder.path}" in log
    adapter = folder.path / "adapters" / "node-0"
    assert (
        f"Next: 'flwr-decaf report {folder.path}' draws it; "
        f"PeftModel.from_pretrained(base, '{adapter}') loads an adapter"
    ) in log
    assert not (folder.path / "tensorboard").exists()


def test_bytes_sent_are_the_size_of_two_adapters(decaf):  # invariant 11
    lora = 12 * 8 * (384 + 384)  # query and value of 6 layers, rank 8
    head = 384 * 20 + 20
    sent = {line["bytes-sent"] for line in decaf.metrics if line["phase"] == "train"}
    assert sent == {2 * 4 * (lora + head)}


def test_every_adapter_loads_with_peft_and_scores_as_reported(decaf):
    config = parse_config(decaf.run["settings"])
    task = load_task(config.model, config.lora, config.data)
    reported = {
        line["node"]: line
        for line in decaf.metrics
        if line["phase"] == "evaluate" and line["round"] == 2
    }
    for node in range(NODES):
        base = AutoModelForSequenceClassification.from_pretrained(
            resolve_path(config.model.name), num_labels=len(decaf.run["labels"])
        )
        path = decaf.path / "adapters" / f"node-{node}"
        assert f"# node-{node}: LoRA adapter" in (path / "README.md").read_text()
        model = PeftModel.from_pretrained(base, path)
        rows = load_node_data(config.model, config.lora, config.data, config.seed, node, NODES)
        loaded = replace(task, model=model)
        for part, prefix in ((rows.test, ""), (rows.local_test, "local-")):
            scores = evaluate_rows(loaded, part, config.train)
            assert scores["accuracy"] == reported[node][f"{prefix}accuracy"]
            assert scores["loss"] == pytest.approx(reported[node][f"{prefix}loss"], rel=1e-5)


def test_the_nodes_end_with_different_models(decaf):
    states = list(adapters(decaf).values())
    assert len(states) == NODES
    assert all(torch.isfinite(x).all() for state in states for x in state.values())
    for other in states[1:]:
        assert not any(torch.equal(x, other[name]) for name, x in states[0].items())


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_actors(decaf, output):
    # All cores for one client: one actor runs all nodes, instead of as many actors as cores.
    status, log = flwr_decaf_run(output, "one-actor", f"--cpus={os.cpu_count()}")
    assert status == 0, log
    assert same_adapters(decaf, RunFolder(output / "one-actor"))


@pytest.mark.slow
def test_a_run_of_a_comparison_gives_the_same_result_as_a_single_run(decaf, alone):
    assert same_adapters(decaf, alone[0])


def test_one_simulation_runs_several_strategies(comparison):
    folders, log = comparison
    assert {folder.run["status"] for folder in folders.values()} == {"finished"}
    starts = {
        name: [m["loss"] for m in folder.metrics if (m["round"], m["phase"]) == (0, "evaluate")]
        for name, folder in folders.items()
    }
    # All start with the same adapter on the same data; centralized has one node.
    assert {len(losses) for name, losses in starts.items() if name != "centralized"} == {NODES}
    assert len(starts["centralized"]) == 1
    assert len({loss for losses in starts.values() for loss in losses}) == 1
    assert "run 5 of 5, centralized: round 2 of 2" in log
    assert all(f"\n{name}" in log for name in folders)
    started = [name for name, folder in folders.items() if "start-up-seconds" in folder.run]
    assert started == ["decaf"]  # only the first, since they share one simulation


def test_fedavg_runs_through_the_same_client_app(comparison):
    fedavg = comparison[0]["fedavg"]
    assert list(adapters(fedavg)) == ["global"]
    last = [m for m in fedavg.metrics if m["phase"] == "evaluate" and m["round"] == 2]
    assert len(last) == NODES
    assert len({line["accuracy"] for line in last}) == 1  # all have the same model
    size = 4 * (12 * 8 * (384 + 384) + 384 * 20 + 20)
    assert {m["bytes-sent"] for m in fedavg.metrics if m["phase"] == "train"} == {2 * size}


def test_centralized_trains_on_all_rows_on_one_node(comparison):
    folders, _ = comparison
    rows = [m["num-examples"] for m in folders["decaf"].metrics if m["phase"] == "train"]
    (first, second) = [m for m in folders["centralized"].metrics if m["phase"] == "train"]
    assert first["num-examples"] == pytest.approx(sum(rows) / 2, abs=NODES)
    assert first["bytes-sent"] == second["bytes-sent"] == 0


def test_nodes_that_exchange_nothing_send_nothing(comparison):
    lines = [m for m in comparison[0]["local-only"].metrics if m["phase"] == "train"]
    assert {(m["bytes-sent"], m["round"]) for m in lines} == {(0, 1), (0, 2)}


def test_dlora_fa_never_changes_a(comparison):
    states = list(adapters(comparison[0]["dlora-fa"]).values())
    frozen = [key for key in states[0] if "lora_A" in key]
    assert len(frozen) == 12
    assert all(torch.equal(state[key], states[0][key]) for state in states for key in frozen)


def test_event_files_are_written_on_request(comparison):
    for folder in comparison[0].values():
        assert list((folder.path / "tensorboard").glob("events.out.tfevents.*"))


def family(process):
    return process.children(recursive=True)


@pytest.mark.slow
def test_the_bundle_contains_every_module(tmp_path):
    flwr = Path(sys.executable).parent / "flwr"
    subprocess.run([flwr, "build", "--app", ROOT], check=True, capture_output=True, cwd=tmp_path)
    (bundle,) = tmp_path.glob("*.fab")
    names = set(zipfile.ZipFile(bundle).namelist())
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "flwr_decaf").rglob("*.py")}
    assert modules <= names
    assert not [name for name in names if re.match(r"tests|benchmarks|runs", name)]
