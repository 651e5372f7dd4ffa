"""Optimizer steps over several batches, and with clipped gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flwr_decaf.clients.models.adapter import get_adapter, initialize_adapter
from flwr_decaf.clients.steps import take_steps
from flwr_decaf.clients.training import train_locally, training_batches
from flwr_decaf.config import Train

SGD = Train(optimizer="sgd", learning_rate=0.5, weight_decay=0.0, batch_size=4)


@pytest.fixture
def still(task):
    """Return the task without dropout."""
    return replace(task, train_mode=lambda model: model.eval())


def after_steps(task, batches, train):
    start = initialize_adapter(task.model, seed=0)
    steps = take_steps(task, batches, train, "AB")
    state = get_adapter(task.model)
    return {name: x - start[name] for name, x in state.items()}, steps


def batches_of(task, rows, *sizes):
    chosen, start = [], 0
    for size in sizes:
        chosen.append(task.collate([rows.train[i] for i in range(start, start + size)]))
        start += size
    return chosen


def test_accumulated_gradients_are_those_of_the_whole_batch(still, rows):
    whole, _ = after_steps(still, batches_of(still, rows, 8), SGD)
    parts, steps = after_steps(
        still, batches_of(still, rows, 4, 4), replace(SGD, gradient_accumulation=2)
    )
    assert (steps.taken, len(steps.losses)) == (1, 2)
    assert any(bool(x.any()) for x in whole.values())
    for name, x in whole.items():
        torch.testing.assert_close(parts[name], x, atol=1e-6, rtol=1e-4)


def test_the_last_step_of_a_round_may_have_fewer_batches(still, rows):
    train = replace(SGD, gradient_accumulation=2)
    one_by_one, _ = after_steps(still, batches_of(still, rows, 4), SGD)
    alone, steps = after_steps(still, batches_of(still, rows, 4), train)
    assert steps.taken == 1
    assert all(torch.equal(x, alone[name]) for name, x in one_by_one.items())


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_a_gradient_longer_than_the_limit_is_scaled_to_it(still, rows, limit):
    batches = batches_of(still, rows, 8)
    free, _ = after_steps(still, batches, SGD)
    clipped, _ = after_steps(still, batches, replace(SGD, max_grad_norm=limit))
    moved, norm = (
        torch.cat([x.flatten() for x in change.values()]).norm().item() / SGD.learning_rate
        for change in (clipped, free)
    )
    assert moved == pytest.approx(min(norm, limit), rel=1e-3)


def test_local_steps_are_optimizer_steps(task, rows):
    train = Train(local_steps=3, batch_size=4, gradient_accumulation=2)
    assert len(training_batches(task, rows.train, train, 0, 1)) == 6
    initialize_adapter(task.model, seed=0)
    rates = []
    real = torch.optim.AdamW.step

    def step(self, *arguments, **options):
        rates.append(self.param_groups[0]["lr"])
        return real(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        scheduled = replace(train, schedule="linear", warmup_steps=2, learning_rate=1.0)
        train_locally(task, rows.train, scheduled, "AB", 0, server_round=2, rounds=2)
    # Steps 3, 4 and 5 of six, after a warm-up of two.
    assert rates == pytest.approx([3 / 4, 2 / 4, 1 / 4])


def bytes_kept(task, batches, train):
    """Bytes of activations that autograd keeps for the backward pass, and the trained adapter."""
    kept = []

    def pack(tensor):
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    initialize_adapter(task.model, seed=0)
    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        take_steps(task, batches, train, "AB")
    return sum(kept), {name: x.clone() for name, x in get_adapter(task.model).items()}


def test_checkpointed_layers_keep_less_and_train_the_same_with_dropout(task, rows):
    task = replace(task, train_mode=lambda model: model.train())
    batches = batches_of(task, rows, 8)
    usual, state = bytes_kept(task, batches, SGD)
    fewer, same = bytes_kept(task, batches, replace(SGD, gradient_checkpointing=True))
    again, _ = bytes_kept(task, batches, SGD)  # the model of an actor is shared by all runs
    assert fewer < usual / 2
    assert again == usual
    for name, x in state.items():
        torch.testing.assert_close(same[name], x, atol=1e-7, rtol=1e-5)
