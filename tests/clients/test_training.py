from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
import torch
from datasets import Dataset
from torch import nn
from torch.nn.functional import cross_entropy

from flwr_decaf.clients import training
from flwr_decaf.clients.evaluation import evaluate_node
from flwr_decaf.clients.freezing import freeze_factors
from flwr_decaf.clients.models.adapter import get_adapter, set_adapter
from flwr_decaf.clients.models.hardware import LossScaling
from flwr_decaf.clients.passes import shuffled_passes
from flwr_decaf.clients.tasks.contract import Task
from flwr_decaf.clients.training import evaluate_rows, train_locally
from flwr_decaf.config import Train
from flwr_decaf.lora import factor_of
from tests.states import lora_state

pytestmark = pytest.mark.pretrained

TRAIN = Train(local_steps=3, batch_size=8)


def snapshot(task):
    return {name: x.clone() for name, x in get_adapter(task.model).items()}


def moved(task, before):
    return {
        factor_of(k) for k, x in get_adapter(task.model).items() if not torch.equal(x, before[k])
    }


def train_twice(task, rows, trainable):
    # LoRA's B is zero at first, and so is the gradient of A: the first step changes only B.
    train_locally(task, rows.train, TRAIN, "AB", seed=1)
    before = snapshot(task)
    train_locally(task, rows.train, TRAIN, trainable, seed=2)
    return moved(task, before)


@pytest.mark.parametrize("trainable", ["A", "B", "AB"])
def test_only_the_given_factors_and_the_head_are_trained(task, rows, trainable):
    assert train_twice(task, rows, trainable) == {None, *trainable}


def test_the_base_is_not_trained(task, rows):
    frozen = {k: p.clone() for k, p in task.model.named_parameters() if not p.requires_grad}
    train_locally(task, rows.train, TRAIN, "AB", seed=0)
    after = dict(task.model.named_parameters())
    assert len(frozen) > 100
    assert all(torch.equal(p, after[k]) for k, p in frozen.items())


def test_training_fits_the_rows(task, rows):
    before = evaluate_rows(task, rows.train, Train())
    metrics = train_locally(task, rows.train, Train(local_steps=15, batch_size=8), "AB", seed=0)
    after = evaluate_rows(task, rows.train, Train())
    assert after["loss"] < before["loss"] - 0.2
    assert after["accuracy"] > before["accuracy"] + 0.1
    assert metrics["train-loss"] < before["loss"]


def test_training_is_reproducible_to_the_bit(task, rows):
    start = snapshot(task)
    ends = []
    for seed in (7, 7, 8):
        set_adapter(task.model, start)
        train_locally(task, rows.train, TRAIN, "AB", seed)
        ends.append(snapshot(task))
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in start)
    assert not all(torch.equal(ends[0][k], ends[2][k]) for k in start)


def test_a_node_with_fewer_rows_than_a_batch(task, rows):
    few = rows.train.select(range(2))
    assert train_locally(task, few, Train(local_steps=2, batch_size=64), "AB", 0)["train-loss"] > 0


def test_batching_does_not_change_the_score(task, rows):
    one_by_one, together = (
        evaluate_rows(task, rows.test, Train(batch_size=size)) for size in (1, 64)
    )
    assert one_by_one["accuracy"] == together["accuracy"]
    assert one_by_one["loss"] == pytest.approx(together["loss"], rel=1e-5)
    assert evaluate_rows(task, rows.test.select([]), Train()) == {}


def test_processes_begin_with_different_rows_and_get_the_same_score(task, rows, monkeypatch):
    order = []

    def noted(model, chosen, device):
        order[-1].append([row["input_ids"] for row in chosen])
        return task.tally(model, chosen, device)

    scores = []
    for process in (100, 101, 102):
        monkeypatch.setattr(training.os, "getpid", lambda process=process: process)
        order.append([])
        scores.append(evaluate_rows(replace(task, tally=noted), rows.test, Train(batch_size=4)))
    assert scores[0] == scores[1] == scores[2]
    assert len({str(batches[0]) for batches in order}) == 3
    assert len({str(sorted(batches)) for batches in order}) == 1


def test_accuracy_is_the_fraction_of_correctly_classified_rows(task, rows):
    scores = evaluate_rows(task, rows.test, Train(batch_size=7))
    with torch.no_grad():
        guesses = [
            int(task.model(**task.collate([row])).logits.argmax()) == row["label"]
            for row in rows.test
        ]
    assert scores["accuracy"] == sum(guesses) / len(guesses)


def test_the_same_adapter_is_evaluated_once(task, rows):
    passes = []
    counting = replace(task, tally=lambda *what: passes.append(0) or task.tally(*what))
    first = evaluate_node(counting, rows, Train())
    once = len(passes)
    again = evaluate_node(counting, rows, Train())
    assert len(passes) == once
    assert {**first, "evaluate-seconds": 0} == {**again, "evaluate-seconds": 0}
    assert {"accuracy", "loss", "local-accuracy", "local-loss"} < set(first)
    set_adapter(task.model, {k: x + 0.5 for k, x in get_adapter(task.model).items()})
    changed = evaluate_node(counting, rows, Train())
    assert len(passes) == 2 * once
    assert changed["loss"] != first["loss"]
    assert changed["local-loss"] != first["local-loss"]
    evaluate_node(counting, rows, Train(batch_size=7))  # other batches are rounded differently
    assert len(passes) > 3 * once


def test_get_adapter_returns_what_set_adapter_was_given(task):
    wanted = {k: torch.randn_like(x) for k, x in get_adapter(task.model).items()}
    set_adapter(task.model, wanted)
    assert all(torch.equal(x, wanted[k]) for k, x in get_adapter(task.model).items())
    with pytest.raises(ValueError, match="must have the same tensors as the model"):
        set_adapter(task.model, lora_state(0))


def test_freezing_is_by_name_not_by_position(task):  # defect 6
    freeze_factors(task.model, "B")
    trainable = {k for k, p in task.model.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_A" not in name for name in trainable)
    assert sum("lora_B" in name for name in trainable) == 12
    assert sum("classifier" in name for name in trainable) == 2


def test_epochs_use_every_row_equally_often(task, rows):
    seen = []
    counting = replace(task, collate=lambda batch: seen.extend(batch) or task.collate(batch))
    train_locally(counting, rows.train, Train(local_epochs=2, batch_size=7), "AB", seed=0)
    assert len(seen) == 2 * len(rows.train)
    ids = [tuple(row["input_ids"]) for row in seen]
    assert all(ids.count(tuple(row["input_ids"])) >= 2 for row in rows.train)


def test_freeze_head_freezes_the_head(task, rows):
    for freeze in (True, False):
        before = snapshot(task)
        train_locally(task, rows.train, replace(TRAIN, freeze_head=freeze), "AB", seed=0)
        assert (None in moved(task, before)) != freeze


def test_local_steps_use_every_row_before_any_is_repeated():
    # 960 rows in batches of 16: an epoch is 60 steps, 7.5 rounds of 8.
    rounds = [shuffled_passes(960, t * 8 * 16, 8 * 16, seed=0) for t in range(15)]
    drawn = list(chain.from_iterable(rounds))
    assert sorted(drawn[:960]) == sorted(drawn[960:]) == list(range(960))
    assert drawn[:960] != drawn[960:]
    assert drawn[:960] != list(range(960))
    assert rounds[7] == shuffled_passes(960, 7 * 128, 128, seed=0)
    assert rounds[7] != shuffled_passes(960, 7 * 128, 128, seed=1)


@pytest.mark.parametrize(("count", "drawn"), [(1, 5), (2, 3), (3, 3), (5, 12)])
def test_a_slice_can_span_several_passes(count, drawn):
    parts = (shuffled_passes(count, t * drawn, drawn, seed=0) for t in range(4))
    whole = shuffled_passes(count, 0, 4 * drawn, seed=0)
    assert list(chain.from_iterable(parts)) == whole
    passes = [whole[at : at + count] for at in range(0, len(whole) - count + 1, count)]
    assert all(sorted(each) == list(range(count)) for each in passes)


def test_rounds_continue_the_passes(task, rows):
    seen = []
    counting = replace(task, collate=lambda batch: seen.extend(batch) or task.collate(batch))
    chosen = rows.train.select(range(20))
    for server_round in (1, 2, 3, 4, 5):  # 5 rounds of 2 steps of 4 rows: twice all of them
        settings = Train(local_steps=2, batch_size=4)
        train_locally(counting, chosen, settings, "AB", 0, server_round=server_round)
    texts = [tuple(row["input_ids"]) for row in seen]
    expected = sorted(tuple(ids) for ids in chosen["input_ids"])
    assert sorted(texts[:20]) == sorted(texts[20:]) == expected


class Steep(nn.Module):
    """Two classes, with logits a hundred times the output of a linear layer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 2, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x):
        return 100 * self.linear(x)


def steep_task():
    def loss(model, batch):
        return cross_entropy(model(batch["x"]), batch["y"])

    def collate(rows):
        return {"x": torch.ones(len(rows), 1), "y": torch.tensor([row["y"] for row in rows])}

    task = Task(Steep(), *[lambda *what: what] * 5, loss=loss)
    return replace(task, collate=collate), Dataset.from_dict({"y": [0]})


def test_the_loss_scale_continues_from_the_previous_round():
    # The gradient of the logits is 0.5, times 100 before the linear layer: 50 times the scale must
    # be below 65504, fp16's largest number. 65536 is halved six times to 1024.
    task, rows = steep_task()
    train = Train(local_steps=8, learning_rate=1e-5, precision="fp16")
    first = train_locally(task, rows, train, "AB", seed=0)
    assert (first["skipped-steps"], first["loss-scale"], first["growth-tracker"]) == (6, 1024, 2)
    kept = LossScaling(first["loss-scale"], first["growth-tracker"])
    second = train_locally(task, rows, train, "AB", 0, server_round=2, scaling=kept)
    assert (second["skipped-steps"], second["loss-scale"], second["growth-tracker"]) == (
        0,
        1024,
        10,
    )
    moved = task.model.linear.weight.detach().abs().max().item()
    assert moved == pytest.approx(10 * 1e-5, rel=0.01)  # AdamW's steps, of the learning rate each


def test_a_round_without_any_step_is_an_error():
    task, rows = steep_task()
    few = Train(local_steps=6, precision="fp16")
    with pytest.raises(
        RuntimeError, match=r"train\.precision .* all 6 were .* 1024; set .* bf16 or fp3"
    ):
        train_locally(task, rows, few, "AB", seed=0)
    assert not task.model.linear.weight.any()


def test_the_schedule_depends_on_step_and_round(task, rows, monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def watched(self, *args, **kwargs):
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    train = Train(learning_rate=2e-4, schedule="cosine-per-round", local_steps=2, batch_size=4)
    train_locally(task, rows.train, train, "AB", seed=0, server_round=5, rounds=9)
    assert seen == pytest.approx([2e-4, 1.005e-4])
    seen.clear()
    train_locally(task, rows.train, replace(train, schedule="cosine"), "AB", 0, 5, rounds=8)
    assert seen == pytest.approx([1e-4, 1e-4])
