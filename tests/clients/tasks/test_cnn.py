from __future__ import annotations

import pytest
import torch
from transformers import ResNetForImageClassification

from flwr_decaf.clients.loading import load_node_data, load_task
from flwr_decaf.clients.models.adapter import get_adapter, initialize_adapter
from flwr_decaf.clients.node_matching import matching_on
from flwr_decaf.clients.tasks.cnn import MODELS, CnnForImageClassification
from flwr_decaf.clients.training import evaluate_rows, train_locally
from flwr_decaf.config import Data, Dimat, Lora, Model, Train

DATA = Data(
    name="package:flwr_decaf_demo/fashion_mnist", image_size=14, partitioner="iid",
    max_train_samples=120, max_test_samples=40,
)  # fmt: skip


def cnn(name="resnet-20", width=4, **options):
    return Model(name=name, task="cnn", width=width, **options)


@pytest.mark.parametrize("name", MODELS)
class TestEveryNetwork:
    def test_trains_on_real_images_and_its_state_is_the_whole_model(self, name):
        model = cnn(name)
        task, rows = load_task(model, Lora(), DATA), load_node_data(model, Lora(), DATA, 0, 0, 2)
        before = initialize_adapter(task.model, seed=0)
        train = Train(local_epochs=1, learning_rate=1e-3)
        train_locally(task, rows.train, train, "AB", seed=0)
        moved = {
            key for key, x in get_adapter(task.model).items() if not torch.equal(x, before[key])
        }
        assert moved == set(before) == {
            key for key in task.model.state_dict() if "num_batches_tracked" not in key
        }  # fmt: skip
        scores = evaluate_rows(task, rows.test, Train())
        assert 0 <= scores["accuracy"] <= 1
        assert len(task.labels) == 10

    def test_can_be_matched(self, name):
        model = cnn(name)
        task, rows = load_task(model, Lora(), DATA), load_node_data(model, Lora(), DATA, 0, 0, 2)
        own = initialize_adapter(task.model, seed=0)
        part = matching_on(task, rows.train, Dimat(max_samples=20), seed=0)
        _, same = part.align([own, own])
        assert all(torch.equal(same[key], x) for key, x in own.items())


def test_the_numbers_of_parameters_are_as_published():
    def count(name, width):
        model = load_task(cnn(name, width), Lora(), DATA).model
        return sum(p.numel() for p in model.parameters())

    # ResNet-20 of CIFAR has 0.27 M (He et al., table 6), here with projections; by hand:
    def block(into, out):
        project = into * out + 2 * out if into != out else 0
        return 9 * into * out + 2 * out + 9 * out * out + 2 * out + project

    stem = 27 * 16 + 2 * 16
    stages = 3 * block(16, 16) + block(16, 32) + 2 * block(32, 32) + block(32, 64)
    assert count("resnet-20", 0) == stem + stages + 2 * block(64, 64) + 64 * 10 + 10
    assert count("resnet-18", 0) == 11_689_512 - 513_000 + 5_130  # ImageNet's, with another head
    assert count("resnet-50", 0) == 25_557_032 - 2_049_000 + 20_490
    assert count("vgg-16", 0) == 14_714_688 + 2 * 4_224 + 5_130  # torchvision's with batch-norm


def test_the_initial_values_depend_only_on_the_seed():
    task = load_task(cnn(), Lora(), DATA)
    first, other = initialize_adapter(task.model, seed=0), initialize_adapter(task.model, seed=1)
    again = initialize_adapter(task.model, seed=0)
    assert all(torch.equal(x, again[key]) for key, x in first.items())
    assert not all(torch.equal(x, other[key]) for key, x in first.items())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("resnet-20", CnnForImageClassification), ("resnet-18", ResNetForImageClassification)],
)
def test_a_saved_model_computes_the_same(name, kind, tmp_path):
    task = load_task(cnn(name), Lora(), DATA)
    initialize_adapter(task.model, seed=0)
    task.model.save_pretrained(tmp_path)
    pictures = torch.rand(2, 3, 14, 14)
    again = kind.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(pictures).logits, task.model.eval()(pictures).logits)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (cnn("resnet-21"), "model.name must be one of .*resnet-20.*; got 'resnet-21'"),
        (cnn(quantization="8bit"), "model.quantization must be none with model.task = cnn"),
        (cnn(dtype="bf16"), "model.dtype must be fp32 with model.task = cnn"),
    ],
)
def test_invalid_settings_are_rejected(model, complaint):
    with pytest.raises(ValueError, match=complaint):
        load_task(model, Lora(), DATA)


def test_a_node_without_rows_is_rejected():
    task, rows = load_task(cnn(), Lora(), DATA), load_node_data(cnn(), Lora(), DATA, 0, 0, 2)
    with pytest.raises(ValueError, match="got no rows"):
        matching_on(task, rows.train.select([]), Dimat(), seed=0)
