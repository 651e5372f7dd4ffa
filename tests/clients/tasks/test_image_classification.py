"""The real ViT on real images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flwr_decaf.clients.loading import forget_task, load_node_data, load_task
from flwr_decaf.clients.models.adapter import get_adapter, initialize_adapter
from flwr_decaf.clients.training import evaluate_rows, train_locally
from flwr_decaf.config import Data, Lora, Model, Train
from flwr_decaf.lora import pairs

MODEL = Model(name="package:flwr_decaf_demo/vit-small", task="image-classification")
LORA = Lora(rank=2, target_modules="q_proj, v_proj", layers_to_transform="10, 11")
DATA = Data(
    name="package:flwr_decaf_demo/fashion_mnist", classes="trouser, sneaker, bag",
    partitioner="stratified", max_train_samples=90, max_test_samples=30,
)  # fmt: skip


@pytest.fixture(scope="module")
def task():
    forget_task()
    task = load_task(MODEL, LORA, DATA)
    initialize_adapter(task.model, seed=0)
    return task


def test_the_adapter_is_lora_on_some_layers_and_a_head(task):
    state = get_adapter(task.model)
    assert [tuple(state[pair.a].shape) for pair in pairs(state)] == [(2, 384)] * 4
    dense = sorted(tuple(x.shape) for name, x in state.items() if "lora" not in name)
    assert dense == [(3,), (3, 2 * 384)]  # of the class token and the patches' mean
    assert task.labels == ("trouser", "sneaker", "bag")


def test_images_are_encoded_to_bytes(task):
    rows = load_node_data(MODEL, LORA, DATA, seed=0, node=0, n=3)
    assert len(rows.train.with_format(None)[0]["pixels"]) == 3 * 42 * 42
    assert set(rows.train.column_names) == {"pixels", "label"}


def test_a_few_steps_learn_to_classify_clothes(task):
    rows = load_node_data(MODEL, LORA, DATA, seed=0, node=0, n=1)
    train = Train(learning_rate=3e-3, local_steps=8, batch_size=12)
    before = evaluate_rows(task, rows.test, train)
    train_locally(task, rows.train, train, "AB", seed=0)
    after = evaluate_rows(task, rows.test, train)
    assert after["loss"] < before["loss"] / 2
    assert after["accuracy"] > 0.8


def test_augmentation_is_only_for_training(task):
    rows = load_node_data(MODEL, LORA, DATA, seed=0, node=0, n=3)
    changed = load_task(MODEL, LORA, replace(DATA, augmentation="flip-shift"))
    forget_task()
    torch.manual_seed(0)
    few = [rows.train[i] for i in range(6)]
    one, other = (changed.collate(few)["pixel_values"] for _ in range(2))
    assert not torch.equal(one, other)
    sums = [changed.tally(changed.model.eval(), few, torch.device("cpu")) for _ in range(2)]
    assert sums[0] == sums[1]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"image_column": "photo"}, r"data\.image-column must name columns of .*got 'photo'"),
        (
            {"label_column": ""},
            r"data\.label-column must name a column of classes with model\.task = image",
        ),
    ],
)
def test_missing_columns_are_rejected(change, line):
    with pytest.raises(ValueError, match=line):
        load_task(MODEL, LORA, replace(DATA, **change))


def test_an_encoder_is_rejected_for_a_model_with_a_single_one():
    with pytest.raises(
        ValueError, match=r"lora\.encoder must be both for a model with a single encoder"
    ):
        load_task(MODEL, replace(LORA, encoder="text"), DATA)


def test_a_missing_module_is_rejected():
    with pytest.raises(ValueError, match=r"lora\.modules-to-save must name modules.*got 'neck'"):
        load_task(MODEL, replace(LORA, modules_to_save="neck"), DATA)
