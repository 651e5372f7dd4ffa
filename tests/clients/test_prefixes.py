from dataclasses import replace

import pytest
import torch

from flwr_decaf.clients import prefixes
from flwr_decaf.clients.loading import forget_task, load_node_data, load_task
from flwr_decaf.clients.models import kept_states
from flwr_decaf.clients.models.adapter import get_adapter, initialize_adapter
from flwr_decaf.clients.training import evaluate_rows, train_locally
from flwr_decaf.config import parse_config

UPPER = {
    "lora.layers-to-transform": "4, 5", "data.max-length": 12, "data.max-train-samples": 40,
    "data.max-test-samples": 12, "data.partitioner": "iid", "train.batch-size": 6,
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_states, "private_folder", lambda *_, **__: tmp_path)
    yield
    forget_task()


def trained(gigabytes, steps=4):
    config = parse_config({**UPPER, "model.prefix-cache": gigabytes, "train.local-steps": steps})
    task = load_task(config.model, config.lora, config.data)
    data = load_node_data(config.model, config.lora, config.data, 0, 0, 2)
    initialize_adapter(task.model, 0)
    train_locally(task, data.train, config.train, "AB", seed=0)
    scores = evaluate_rows(task, data.test, config.train)
    return {k: x.clone() for k, x in get_adapter(task.model).items()}, scores, task


def test_a_node_trains_to_the_same_adapter_and_repeats_it_bit_for_bit():
    plain, scores, _ = trained(0)
    kept, kept_scores, task = trained(1)
    assert kept_scores["loss"] == pytest.approx(scores["loss"], abs=1e-4)
    for name, x in plain.items():  # AdamW divides by small second moments, which magnifies rounding
        torch.testing.assert_close(kept[name], x, rtol=0, atol=1e-3)
    # The node's 18 rows and 6 of them again, then 12 of the test.
    counts = prefixes.count_rows(task)
    assert sum(counts.values()) == 24 + 12
    assert counts["hidden-states-computed"] == 18 + 12 - 1  # the check had computed one
    forget_task()  # as in another actor, or a later run
    again, _, task = trained(1)
    assert all(torch.equal(again[name], x) for name, x in kept.items())
    assert prefixes.count_rows(task) == {
        "hidden-states-read": 36.0, "hidden-states-computed": 0.0
    }  # fmt: skip


def test_the_table_says_what_is_skipped_and_why_not():
    config = parse_config(UPPER)
    task = load_task(config.model, config.lora, config.data)

    def said(data=config.data, **model):
        return prefixes.describe(task, replace(config.model, **model), data)

    assert said() == "computed once: 4 of the 6 of BertModel"
    assert said(dropout="all").endswith("in evaluation only, since model.dropout is all")
    assert said(prefix_cache=0.0) == "computed in every pass, since model.prefix-cache is 0"
    forget_task()
    config = parse_config({**UPPER, "lora.layers-to-transform": ""})
    task = load_task(config.model, config.lora, config.data)
    assert said() == "computed in every pass: all of BertModel, whose first layer is adapted"
    assert task.prefixes == ()
