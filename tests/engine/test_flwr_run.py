"""Real ``flwr run``s, each on a SuperLink of its own, checked by the run folders they leave."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from flwr_decaf.cli.engine import flwr_run, simulation
from flwr_decaf.cli.simulate import finished
from flwr_decaf.clients.loading import load_node_data, load_task
from flwr_decaf.clients.training import evaluate_rows
from flwr_decaf.config import parse_config
from flwr_decaf.config.files import to_toml
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
    "data.max-test-samples": 60,
    "data.max-length": 24,
}


def flwr_decaf_run(output, name, *options, **settings):
    """Run the command as a user does; return its exit status and its output."""
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
    assert run["labels"][10] == "rec.sport.hockey"
    assert f"start-up: {run['start-up-seconds']:.0f} s; time: training" in log
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
            resolve_path(config.model.name), num_labels=len(folder.run["labels"])
        )
        path = folder.path / "adapters" / f"node-{node}"
        assert f"# node-{node}: LoRA adapter" in (path / "README.md").read_text()
        model = PeftModel.from_pretrained(base, path)
        rows = load_node_data(config.model, config.lora, config.data, config.seed, node, NODES)
        loaded = replace(task, model=model)
        for part, prefix in ((rows.test, ""), (rows.local_test, "local-")):
            scores = evaluate_rows(loaded, part, config.train)
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
    status, log = flwr_decaf_run(output, "one-actor", f"--cpus={os.cpu_count()}")
    assert status == 0, log
    first, second = adapters(decaf[0]), adapters(RunFolder(output / "one-actor"))
    assert first.keys() == second.keys()
    for name, state in first.items():
        assert all(torch.equal(x, second[name][key]) for key, x in state.items())


@pytest.fixture(scope="module")
def comparison(output):
    strategies = "dlora, fedavg, decaf, local-only, dlora-fa, centralized"
    status, log = flwr_decaf_run(output, "comparison", strategy=strategies, tensorboard="true")
    assert status == 0, log
    return {name: RunFolder(output / "comparison" / name) for name in strategies.split(", ")}, log


def test_one_simulation_runs_several_strategies_without_leaking(comparison, decaf):
    folders, log = comparison
    assert {folder.run["status"] for folder in folders.values()} == {"finished"}
    alone, among = adapters(decaf[0]), adapters(folders["decaf"])
    for name, state in alone.items():  # in third place it ends as if it had been alone
        assert all(torch.equal(x, among[name][key]) for key, x in state.items())
    starts = {
        name: [m["loss"] for m in folder.metrics if (m["round"], m["phase"]) == (0, "evaluate")]
        for name, folder in folders.items()
    }
    # The same adapter on the same data; centralized has one node.
    assert {len(losses) for name, losses in starts.items() if name != "centralized"} == {NODES}
    assert len(starts["centralized"]) == 1
    assert len({loss for losses in starts.values() for loss in losses}) == 1
    assert "run 6 of 6, centralized: round 2 of 2" in log
    assert all(f"\n{name}" in log for name in folders)
    started = [name for name, folder in folders.items() if "start-up-seconds" in folder.run]
    assert started == ["dlora"]  # the first alone: they share one simulation


def test_fedavg_runs_through_the_same_client_app(comparison):
    fedavg = comparison[0]["fedavg"]
    assert list(adapters(fedavg)) == ["global"]
    last = [m for m in fedavg.metrics if m["phase"] == "evaluate" and m["round"] == 2]
    assert len(last) == NODES
    assert len({line["accuracy"] for line in last}) == 1  # one model for all
    size = 4 * (12 * 8 * (384 + 384) + 384 * 20 + 20)
    assert {m["bytes-sent"] for m in fedavg.metrics if m["phase"] == "train"} == {2 * size}


def test_centralized_trains_on_all_rows_in_one_place(comparison):
    folders, _ = comparison
    rows = [m["num-examples"] for m in folders["decaf"].metrics if m["phase"] == "train"]
    (first, second) = [m for m in folders["centralized"].metrics if m["phase"] == "train"]
    assert first["num-examples"] == pytest.approx(sum(rows) / 2, abs=NODES)
    assert first["bytes-sent"] == second["bytes-sent"] == 0


def test_nodes_that_exchange_nothing_send_nothing(comparison):
    lines = [m for m in comparison[0]["local-only"].metrics if m["phase"] == "train"]
    assert {(m["bytes-sent"], m["round"]) for m in lines} == {(0, 1), (0, 2)}


def test_dlora_fa_never_moves_a(comparison):
    states = list(adapters(comparison[0]["dlora-fa"]).values())
    frozen = [key for key in states[0] if "lora_A" in key]
    assert len(frozen) == 12
    assert all(torch.equal(state[key], states[0][key]) for state in states for key in frozen)


def test_event_files_lie_beside_the_metrics_on_request(comparison, decaf):
    for folder in comparison[0].values():
        assert list((folder.path / "tensorboard").glob("events.out.tfevents.*"))
    assert not (decaf[0].path / "tensorboard").exists()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"lora.target-modules": "qery"}, "take some of its linear layers: classifier, dense, key"),
        ({"model.name": "/no/such"}, "model.name must be a hub id.*no such folder: /no/such"),
        ({"data.name": "posts.csv"}, "data.name must be one of.*no such file: .*posts.csv"),
        ({"data.max-train-samples": 3}, "num-supernodes must be <= the number of training rows"),
    ],
)
def test_what_cannot_be_is_refused_before_the_engine_starts(output, settings, line):
    status, log = flwr_decaf_run(output, "refused", **settings)
    assert status == 2
    assert re.fullmatch(f"Error: .*{line}.*\n", log)  # one line
    assert not (output / "refused").exists()


def test_a_run_that_fails_ends_with_its_cause_and_status_1(output):
    # Plain flwr run: nothing is checked before, and Flower exits 0 all the same.
    values = {**SETTINGS, "lora.target-modules": "qery", "output-dir": str(output)}
    file = output / "fails.toml"
    file.write_text(to_toml({**values, "run-name": "fails"}))
    flwr_run(ROOT, file, simulation(nodes=2), output / "fails.log")
    folder = RunFolder(output / "fails")
    assert folder.run["status"] == "failed"
    assert folder.run["error"].startswith("ValueError: lora.target-modules must name layers")
    assert folder.metrics == []  # refused before any training
    with pytest.raises(RuntimeError, match=r"run fails failed: ValueError: lora.target-"):
        finished(folder, output)


@pytest.mark.slow
def test_whoever_is_ended_ends_all_that_it_started(output):
    command = [Path(sys.executable).parent / "flwr-decaf", "run", "conf/ring.toml", "--nodes=2"]
    settings = [f"--set=output-dir={output}", "--set=run-name=ended"]
    process = psutil.Popen([*command, *settings], cwd=ROOT, stdout=subprocess.DEVNULL)
    log = output / "ended" / "log.txt"
    while not (log.exists() and "ClientAppActor" in str([p.cmdline() for p in family(process)])):
        assert process.poll() is None
        time.sleep(1)
    started = family(process)
    assert len(started) > 5
    process.terminate()
    process.wait(60)
    _, alive = psutil.wait_procs(started, timeout=30)
    assert [p.cmdline() for p in alive] == []


def family(process):
    return process.children(recursive=True)


def test_the_bundle_contains_every_module(tmp_path):
    flwr = Path(sys.executable).parent / "flwr"
    subprocess.run([flwr, "build", "--app", ROOT], check=True, capture_output=True, cwd=tmp_path)
    (bundle,) = tmp_path.glob("*.fab")
    names = set(zipfile.ZipFile(bundle).namelist())
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "flwr_decaf").rglob("*.py")}
    assert modules <= names
    assert not [name for name in names if re.match(r"tests|benchmarks|runs", name)]
