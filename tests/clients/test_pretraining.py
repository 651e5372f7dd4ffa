from __future__ import annotations

import json

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord

from flwr_decaf.app import client_app
from flwr_decaf.app.preflight import check
from flwr_decaf.app.run import build_strategy
from flwr_decaf.clients import pretraining
from flwr_decaf.clients.loading import load_node_data, load_task
from flwr_decaf.clients.models.adapter import get_adapter, initialize_adapter, set_adapter
from flwr_decaf.config import Train, flatten, parse_config
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.strategies import STRATEGIES
from tests.local_grid import LocalGrid

SETTINGS = {
    "model.task": "cnn", "model.name": "mlp", "model.width": 16,
    "data.name": "package:flwr_decaf_demo/fashion_mnist", "data.image-size": 14,
    "data.partitioner": "iid", "data.max-train-samples": 120, "data.max-test-samples": 20,
    "train.pretrain-epochs": 2, "train.local-epochs": 1, "topology.name": "complete",
    "num-server-rounds": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    def folder(library, namespace):
        path = tmp_path / library / namespace
        path.mkdir(parents=True, exist_ok=True)
        return path

    monkeypatch.setattr(pretraining, "cached_assets_path", folder)
    return tmp_path / "flwr-decaf" / "pretraining"


def loaded():
    config = parse_config(SETTINGS)
    task = load_task(config.model, config.lora, config.data)
    rows = load_node_data(config.model, config.lora, config.data, config.seed, 0, 3)
    return config, task, rows.train


def held(task):
    return {key: x.clone() for key, x in get_adapter(task.model).items()}


def test_another_augmentation_is_not_taken_from_the_cache(cache):
    config, task, rows = loaded()
    start = initialize_adapter(task.model, seed=5)
    for augmentation in ("none", "flip"):
        set_adapter(task.model, start)
        pretraining.pretrain(task, rows, config.train, 1, augmentation)
    assert len([*cache.iterdir()]) == 2


def test_the_result_is_cached_on_disk_to_the_bit(cache):
    config, task, rows = loaded()
    start = initialize_adapter(task.model, seed=5)
    first = pretraining.pretrain(task, rows, config.train, seed=1)
    trained = held(task)
    assert not torch.equal(trained["network.1.weight"], start["network.1.weight"])
    (file,) = cache.iterdir()
    written = file.stat().st_mtime_ns
    set_adapter(task.model, start)
    again = pretraining.pretrain(task, rows, config.train, seed=1)
    assert again["train-loss"] == first["train-loss"]
    assert all(torch.equal(x, trained[key]) for key, x in get_adapter(task.model).items())
    assert file.stat().st_mtime_ns == written


@pytest.mark.parametrize("what", ["start", "seed", "rows", "settings"])
def test_the_cache_distinguishes_start_seed_rows_and_settings(what, cache):
    _, task, rows = loaded()
    for changed in (False, True):
        initialize_adapter(task.model, seed=int(changed and what == "start"))
        some = rows.select(range(20)) if changed and what == "rows" else rows
        rate = 1e-2 if changed and what == "settings" else 1e-3
        settings = Train(pretrain_epochs=2, learning_rate=rate)
        pretraining.pretrain(task, some, settings, seed=int(changed and what == "seed"))
    assert len(list(cache.iterdir())) == 2


def test_pretraining_is_needed_only_at_the_start():
    config, task, _ = loaded()
    initialize_adapter(task.model, config.seed)
    assert pretraining.needs_pretraining(task, config.train, config.seed)
    assert not pretraining.needs_pretraining(task, Train(), config.seed)
    kept = held(task)
    pretraining.draw_own_start(task, config.seed, node=1)
    assert not pretraining.needs_pretraining(task, config.train, config.seed)
    set_adapter(task.model, kept)
    assert pretraining.needs_pretraining(task, config.train, config.seed)


def run(strategy, tmp_path, rounds=2, **changes):
    """Run the real ClientApp and a strategy in this process; return the lines of metrics.jsonl."""
    config = parse_config(SETTINGS | {"strategy": strategy} | changes)
    check(config, 3)
    task = load_task(config.model, config.lora, config.data)
    grid = LocalGrid(client_app.app, 3)
    folder = RunFolder.create(tmp_path / strategy, flatten(config))
    settings = ConfigRecord({"settings": json.dumps(flatten(config))})
    build_strategy(config, folder).start(
        grid, ArrayRecord(initialize_adapter(task.model, config.seed)), rounds,
        train_config=settings, evaluate_config=settings,
    )  # fmt: skip
    return folder.metrics


def test_nodes_of_a_graph_start_from_different_models_and_those_of_a_server_from_one(tmp_path):
    alone, matched, averaged, server = (
        {
            (line["round"], line["node"]): line["train-loss"]
            for line in run(name, tmp_path)
            if line["phase"] == "train"
        }
        for name in ("local-only", "dimat", "dlora", "fedavg")
    )
    for node in range(3):
        assert matched[1, node] == averaged[1, node] == alone[1, node]
        assert server[1, node] != alone[1, node]
        assert matched[2, node] != averaged[2, node]


def test_dimat_with_an_adapter_is_rejected_before_the_start():
    config = parse_config({"strategy": "dimat", "data.max-train-samples": 40})
    with pytest.raises(ValueError, match=r"model.task must be one that trains the whole model"):
        check(config, 2)


@pytest.mark.parametrize("strategy", ["decaf", "dlora-fa", "tad-lora"])
def test_a_strategy_for_adapters_is_rejected_for_whole_models(strategy):
    config = parse_config(SETTINGS | {"strategy": strategy})
    with pytest.raises(ValueError, match=f"strategy must be one for whole models.*'{strategy}'"):
        check(config, 2)


def test_pretraining_is_rejected_for_adapters():
    config = parse_config({"train.pretrain-epochs": 2, "data.max-train-samples": 40})
    with pytest.raises(
        ValueError, match=r"train\.pretrain-epochs must be 0 .* got 2 with .* text-"
    ):
        check(config, 2)


def test_evaluation_does_not_change_the_matched_models():
    held = []
    for every in (1, 0):
        settings = {"strategy": "dimat", "evaluate-every": every, "dimat.max-samples": 20}
        config = parse_config(SETTINGS | settings)
        task = load_task(config.model, config.lora, config.data)
        grid = LocalGrid(client_app.app, 3)
        sent = ConfigRecord({"settings": json.dumps(flatten(config))})
        strategy = STRATEGIES["dimat"]("complete", evaluate_every=every)
        start = ArrayRecord(initialize_adapter(task.model, config.seed))
        strategy.start(grid, start, 2, train_config=sent, evaluate_config=sent)
        held.append(strategy.collect(grid))
    for node, state in held[0].items():
        assert all(torch.equal(x, held[1][node][key]) for key, x in state.items())


def test_matching_can_be_disabled(tmp_path):
    matched = run("dimat", tmp_path / "1")
    unmatched = run("dimat", tmp_path / "2", **{"dimat.matching": "none"})
    assert all("matching-seconds" in line for line in (*matched, *unmatched))
    losses = [
        [x["train-loss"] for x in lines if x["phase"] == "train"] for lines in (matched, unmatched)
    ]
    assert losses[0][:3] == losses[1][:3]
    assert losses[0][3:] != losses[1][3:]
