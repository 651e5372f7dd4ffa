"""Missing hardware and packages are found before the engine starts; GPUs are simulated here."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants

from flwr_decaf.cli import machine
from flwr_decaf.cli.engine import deployment, simulation
from flwr_decaf.cli.machine import (
    check_hub,
    check_machine,
    check_matrix_fits,
    count_gpus,
    node_data_pattern,
    warn_of_slow_engine,
)
from flwr_decaf.cli.processes import free_port
from flwr_decaf.config import Config, parse_config
from tests.cli.test_commands import CONF, call


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def simulate_gpus(monkeypatch, gpus):
    queries = []
    monkeypatch.setattr(machine, "count_gpus", lambda: queries.append(gpus) or gpus)
    return queries


def test_gpus_are_counted_as_torch_counts_them():
    assert count_gpus() == torch.cuda.device_count()


@pytest.mark.parametrize(
    ("gpus", "engine", "device", "complaint"),
    [
        (
            0,
            simulation(2),
            "cuda",
            "train.device must be .*'cuda', but there is none on this machine",
        ),
        (
            0,
            deployment(2),
            "cuda",
            "train.device must be .*'cuda', but there is none on this machine",
        ),
        (1, simulation(2), "cuda", "train.device must be .*which Ray hides .*--gpus 1"),
        (0, simulation(2, gpus=1.0), "auto", "--gpus must be at most .* 0; got 1;"),
        (0, simulation(2, gpus=0.5), "auto", "--gpus must be at most .* 0; got 0.5;"),
        (1, simulation(2, gpus=2.0), "cuda", "--gpus must be at most .* 1; got 2;"),
        (0, simulation(2, cpus=10_000), "auto", "--cpus must be at most.*got 10000;"),
    ],
)
def test_missing_hardware_is_named(monkeypatch, gpus, engine, device, complaint):
    simulate_gpus(monkeypatch, gpus)
    with pytest.raises(ValueError, match=complaint) as info:
        check_machine([Config(), parse_config({"train.device": device})], engine)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("gpus", "engine", "device"),
    [
        (0, simulation(2), "auto"),
        (0, deployment(2), "cpu"),
        (1, deployment(2), "cuda"),
        (1, simulation(2, gpus=1.0), "cuda"),
        (1, simulation(2, gpus=0.25), "auto"),
        (2, simulation(2, gpus=2.0), "cuda"),
    ],
)
def test_existing_hardware_is_accepted(monkeypatch, gpus, engine, device):
    queries = simulate_gpus(monkeypatch, gpus)
    check_machine([parse_config({"train.device": device})], engine)
    needed = device == "cuda" or "client-resources-num-gpus" in engine.federation
    assert bool(queries) == needed  # GPUs are looked for only if the run needs one


def test_the_hardware_of_a_cluster_is_not_checked(monkeypatch):
    queries = simulate_gpus(monkeypatch, 0)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_machine([parse_config({"train.device": "cuda"})], simulation(2, gpus=1.0))
    assert not queries


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"model.quantization": "4bit"}, "model.quantization = 4bit needs .*bitsandbytes"),
        ({"trackers": "tensorboard"}, 'trackers = "tensorboard" needs .*flwr-decaf.tensorboard.'),
        ({"trackers": "mlflow, wandb"}, 'trackers = "mlflow" needs .*flwr-decaf.mlflow.'),
    ],
)
def test_a_missing_package_is_named(monkeypatch, settings, complaint):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=complaint):
        check_machine([parse_config(settings)], simulation(2))


def test_counting_gpus_imports_nothing_heavy():
    code = (
        "import sys; from flwr_decaf.cli.machine import count_gpus; "
        "count_gpus(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False" or os.path.exists("/dev/kfd")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_without_the_required_gpu_ends_before_the_engine_starts(monkeypatch):
    monkeypatch.setattr("flwr_decaf.cli.simulate.flwr_run", None)
    for arguments in (["--set", "train.device=cuda"], ["--gpus", "1"], ["--gpus", "-1"]):
        result = call("run", CONF, *arguments)
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("n", "engine", "warned"),
    [
        (1000, simulation(1000), []),
        (3000, simulation(3000), ["about 3 minutes"]),
        (3000, deployment(3000), []),
    ],
)
def test_a_number_of_nodes_with_which_the_engine_is_slow_causes_a_warning(
    caplog, n, engine, warned
):
    warn_of_slow_engine(n, engine)
    assert len(caplog.records) == len(warned)
    assert all(words in caplog.text for words in warned)


def test_a_mixing_matrix_must_fit_into_the_free_memory(monkeypatch):
    memory = SimpleNamespace(available=32 * 100**2)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    check_matrix_fits(100)
    with pytest.raises(ValueError, match="got 101, which needs .* choose at most 100$"):
        check_matrix_fits(101)


@pytest.fixture
def hub():
    """Serve only 404 responses at an address of this machine."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


HUB_SETTINGS = {"model.name": "someone/some-model"}


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "")  # so that it is restored after the test
    monkeypatch.delenv("HF_HUB_OFFLINE")


@pytest.fixture
def unreachable(monkeypatch, online):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    ("settings", "key"),
    [(HUB_SETTINGS, "model.name"), ({"data.name": "no/such-data"}, "data.name")],
)
def test_an_unreachable_hub_is_named_with_the_missing_model_or_data_set(unreachable, settings, key):
    with pytest.raises(ValueError, match=f"{key} must be .*127.0.0.1:.* cannot be reached"):
        check_hub([parse_config(settings)])


def test_cached_files_are_used_while_the_hub_is_unreachable(unreachable, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--someone--some-model").mkdir()
    check_hub([parse_config(HUB_SETTINGS)])
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model.task": "cnn", "model.name": "resnet-20"},
        {"data.name": "/no/such/folder"},
    ],
)
def test_the_hub_is_contacted_only_if_needed(unreachable, settings):
    check_hub([parse_config(settings)])
    assert "HF_HUB_OFFLINE" not in os.environ


def test_a_hub_that_responds_is_used(online, monkeypatch, hub):
    monkeypatch.setenv("HF_ENDPOINT", hub)
    check_hub([parse_config(HUB_SETTINGS)])
    assert "HF_HUB_OFFLINE" not in os.environ


def test_the_files_of_all_nodes_must_exist(tmp_path):
    for node in range(2):
        (tmp_path / f"node-{node}.csv").write_text("text,label\n")
    pattern = str(tmp_path / "node-{}.csv")
    assert node_data_pattern("", 3) == ""
    assert node_data_pattern(pattern, 2) == pattern
    assert node_data_pattern(str(tmp_path / "node-0.csv"), 1) == str(tmp_path / "node-0.csv")
    with pytest.raises(ValueError, match=r"each of 3 nodes; .*node-2\.csv does not exist; number"):
        node_data_pattern(pattern, 3)
    with pytest.raises(ValueError, match=r"must have \{\} in place of .* got .*node-0\.csv"):
        node_data_pattern(str(tmp_path / "node-0.csv"), 2)


def test_own_files_are_not_on_the_machines_of_a_ray_cluster(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_machine([], deployment(2, "/d/{}.csv"))
    with pytest.raises(ValueError, match="--node-data must not be set for a simulation on a Ray"):
        check_machine([], simulation(2, node_data="/d/{}.csv"))
