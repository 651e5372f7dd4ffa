"""What a run sends to the nodes in addition to the model, with the real ClientApp."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from flwr_decaf.app import client_app
from flwr_decaf.app.nodes import Nodes
from flwr_decaf.app.run import build_strategy, run_once
from flwr_decaf.config import Config, flatten, parse_config
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.resume import rewind_to_checkpoint
from tests.local_grid import LocalGrid

SETTINGS = {
    "model.task": "cnn", "model.name": "mlp", "model.width": 16, "train.precision": "fp16",
    "data.name": "package:flwr_decaf_demo/fashion_mnist", "data.image-size": 14,
    "data.partitioner": "iid", "data.max-train-samples": 120, "data.max-test-samples": 20,
    "train.local-steps": 3, "num-server-rounds": 4, "evaluate-every": 2,
}  # fmt: skip
N = 3


def run(config, folder, grid=None, checkpoint=None):
    grid = grid or LocalGrid(client_app.app, N)
    run_once(grid, Nodes(dict(enumerate(grid.ids)), N), config, flatten(config), folder, checkpoint)
    return [line for line in folder.metrics if line["phase"] == "train"]


def adapters(folder):
    files = sorted(folder.path.glob("adapters/*/model.safetensors"))
    return [safetensors.torch.load_file(file) for file in files]


def stop_in_round_3(lines):
    if any(line["round"] == 3 for line in lines):
        raise ConnectionError("stopped on purpose")


@pytest.mark.parametrize("strategy", ["dlora", "fedavg", "centralized"])
def test_the_state_of_loss_scaling_survives_rounds_and_resuming(strategy, tmp_path):
    config = parse_config(SETTINGS | {"strategy": strategy})
    whole, resumed = (RunFolder.create(tmp_path / name, flatten(config)) for name in ("1", "2"))
    lines = run(config, whole)
    # Nothing overflows here, so the tracker counts the steps.
    assert {(x["round"], x["growth-tracker"], x["skipped-steps"]) for x in lines} == {
        (t, 3 * t, 0) for t in (1, 2, 3, 4)
    }
    resumed.listeners.append(stop_in_round_3)
    with pytest.raises(ConnectionError):
        run(config, resumed)
    resumed = RunFolder(resumed.path)
    again = run(config, resumed, checkpoint=rewind_to_checkpoint(resumed))
    keys = ("round", "node", "train-loss", "loss-scale", "growth-tracker")
    assert [[x[key] for key in keys] for x in again] == [[x[key] for key in keys] for x in lines]
    assert len(adapters(whole)) == (N if strategy == "dlora" else 1)
    for one, other in zip(adapters(whole), adapters(resumed), strict=True):
        assert all(torch.equal(x, other[key]) for key, x in one.items())


def test_asynchronous_rounds_resume_with_each_nodes_own(tmp_path):
    options = {"rounds.mode": "asynchronous", "strategy": "dlora", "train.precision": "fp32"}
    config = parse_config(SETTINGS | options)
    whole, resumed = (RunFolder.create(tmp_path / name, flatten(config)) for name in ("1", "2"))
    run(config, whole)
    resumed.listeners.append(stop_in_round_3)
    with pytest.raises(ConnectionError):
        run(config, resumed)
    resumed = RunFolder(resumed.path)
    checkpoint = rewind_to_checkpoint(resumed)
    assert {node: done.server_round for node, done in checkpoint.progress.items()} == dict.fromkeys(
        range(N), 2
    )
    run(config, resumed, checkpoint=checkpoint)
    # All nodes are equally fast here, so the resumed run repeats the other.
    for folder in (whole, resumed):
        assert not [line for line in folder.metrics if line["phase"] == "missing"]
    results = [
        sorted(
            (x["phase"], x["round"], x["node"], x.get("train-loss", x.get("accuracy")))
            for x in folder.metrics
        )
        for folder in (whole, resumed)
    ]
    assert results[0] == results[1]
    for one, other in zip(adapters(whole), adapters(resumed), strict=True):
        assert all(torch.equal(x, other[key]) for key, x in one.items())


def test_a_new_run_on_the_same_nodes_resets_loss_scaling(tmp_path):
    grid = LocalGrid(client_app.app, N)
    for strategy in ("dlora", "fedavg"):
        config = parse_config(SETTINGS | {"strategy": strategy, "num-server-rounds": 1})
        lines = run(config, RunFolder.create(tmp_path / strategy, flatten(config)), grid)
        assert {x["growth-tracker"] for x in lines} == {3}


def test_without_fp16_no_loss_scaling_is_reported(tmp_path):
    config = parse_config(SETTINGS | {"strategy": "dlora", "train.precision": "bf16"})
    (line, *_) = run(config, RunFolder.create(tmp_path / "1", flatten(config)))
    assert not {"skipped-steps", "loss-scale", "growth-tracker"} & line.keys()


def test_an_adapter_names_its_base_as_the_settings_do(tmp_path):
    settings = {
        "strategy": "local-only", "num-server-rounds": 1, "evaluate-every": 0, "lora.rank": 1,
        "train.local-steps": 1, "data.max-train-samples": 40, "data.max-test-samples": 4,
        "data.partitioner": "iid", "data.max-length": 8,
    }  # fmt: skip
    config = parse_config(settings)
    folder = RunFolder.create(tmp_path / "1", flatten(config))
    run(config, folder)
    saved = json.loads((folder.path / "adapters/node-1/adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == config.model.name == Config().model.name


def test_posts_and_fedavgs_arrays_are_rounded_by_settings_of_their_own(tmp_path):
    settings = {"posts.dtype": "int8", "fedavg.dtype": "bf16", "weighted-mixing": True}
    built = {}
    for name in ("decaf", "fedavg"):
        config = parse_config(settings | {"strategy": name})
        built[name] = build_strategy(config, RunFolder.create(tmp_path / name, flatten(config)))
    assert (built["decaf"].posts.dtype, built["fedavg"].posts.dtype) == ("int8", "bf16")
    assert built["decaf"].weighted_mixing
