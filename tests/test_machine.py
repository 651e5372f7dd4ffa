"""What this machine lacks is found out before the engine starts; GPUs are pretended here."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from flwr_decaf import machine
from flwr_decaf.config import Config, parse_config
from flwr_decaf.engine import deployment, simulation
from flwr_decaf.machine import check_machine, count_gpus
from tests.test_cli import CONF, call


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def pretend(monkeypatch, gpus):
    monkeypatch.setattr(machine, "count_gpus", lambda: gpus)


def test_gpus_are_counted_as_torch_counts_them():
    assert count_gpus() == torch.cuda.device_count()


@pytest.mark.parametrize(
    ("gpus", "engine", "device", "complaint"),
    [
        (0, simulation(2), "cuda", "train.device must be .*'cuda', there is none on this machine"),
        (0, deployment(2), "cuda", "train.device must be .*'cuda', there is none on this machine"),
        (1, simulation(2), "cuda", "train.device must be .*which Ray hides .*--gpus 1"),
        (0, simulation(2, gpus=1.0), "auto", "--gpus must be at most the GPUs.*got 1 of 0"),
        (0, simulation(2, gpus=0.5), "auto", "--gpus must be at most the GPUs.*got 0.5 of 0"),
        (1, simulation(2, gpus=2.0), "cuda", "--gpus must be at most the GPUs.*got 2 of 1"),
        (0, simulation(2, cpus=10_000), "auto", "--cpus must be at most.*got 10000 of"),
    ],
)
def test_hardware_that_is_missing_is_named(monkeypatch, gpus, engine, device, complaint):
    pretend(monkeypatch, gpus)
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
def test_hardware_that_is_there_is_taken(monkeypatch, gpus, engine, device):
    pretend(monkeypatch, gpus)
    check_machine([parse_config({"train.device": device})], engine)


def test_a_cluster_has_what_its_own_machines_have(monkeypatch):
    pretend(monkeypatch, 0)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_machine([parse_config({"train.device": "cuda"})], simulation(2, gpus=1.0))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"model.quantization": "4bit"}, "model.quantization = 4bit needs .*bitsandbytes"),
        ({"tensorboard": True}, "tensorboard = true needs .*'flwr-decaf.tensorboard.'"),
    ],
)
def test_a_package_that_is_missing_is_named(monkeypatch, settings, complaint):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=complaint):
        check_machine([parse_config(settings)], simulation(2))


def test_nothing_heavy_is_imported_for_it():
    code = (
        "import sys; from flwr_decaf.machine import count_gpus; "
        "count_gpus(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False" or os.path.exists("/dev/kfd")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_without_the_gpu_it_asks_for_ends_before_the_engine_starts(monkeypatch):
    monkeypatch.setattr("flwr_decaf.simulate.flwr_run", None)
    for arguments in (["--set", "train.device=cuda"], ["--gpus", "1"], ["--gpus", "-1"]):
        result = call("run", CONF, *arguments)
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
