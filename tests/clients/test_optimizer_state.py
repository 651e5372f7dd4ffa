from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from flwr_decaf.clients import peer_mixing
from flwr_decaf.clients.optimizer_state import OptimizerState, kept_by, rotated, rotations
from flwr_decaf.clients.training import train_locally
from flwr_decaf.config import Train
from flwr_decaf.rules import factorize
from flwr_decaf.strategies import DLoRA
from tests.local_grid import LocalGrid
from tests.states import lora_state


class Layer(nn.Module):
    """A layer of shape (5, 7) with factors of rank 3, and a bias."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.q = nn.ModuleDict()  # PEFT's names: q.lora_A.weight
        self.q["lora_A"] = nn.Linear(7, 3, bias=False)
        self.q["lora_B"] = nn.Linear(3, 5, bias=False)
        self.bias = nn.Parameter(torch.ones(5))

    def forward(self, x):
        return self.q["lora_B"](self.q["lora_A"](x)) + self.bias


def optimizer_of(model):
    return torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.05)


def take_steps(model, optimizer, first, count):
    for t in range(first, first + count):
        torch.manual_seed(100 + t)
        optimizer.zero_grad()
        (model(torch.randn(4, 7)) - torch.randn(4, 5)).square().sum().backward()
        optimizer.step()


def turn(model, q):
    """Rotate the factors, which leaves the model's function as it is."""
    with torch.no_grad():
        model.q["lora_A"].weight.copy_(q @ model.q["lora_A"].weight)
        model.q["lora_B"].weight.copy_(model.q["lora_B"].weight @ q.T)


def random_rotation(size, seed=1):
    torch.manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size))[0]


@pytest.mark.parametrize("rotates", [False, True])
def test_two_rounds_are_one_training_if_nothing_is_mixed(rotates):
    whole, halves = Layer(), Layer()
    take_steps(whole, optimizer_of(whole), 0, 6)
    kept = OptimizerState({}, rotates)
    for first in (0, 3):
        optimizer = optimizer_of(halves)
        kept.restore(optimizer, halves)
        take_steps(halves, optimizer, first, 3)
        kept.store(optimizer, halves)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if rotates else {"rtol": 0, "atol": 0}
    for one, other in zip(whole.parameters(), halves.parameters(), strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def test_first_moments_follow_a_rotation_of_the_factors_exactly():
    q = random_rotation(3)
    # The gradients of a rotated layer are the rotated gradients, and so are their means.
    still, turned = Layer(), Layer()
    turn(turned, q)
    for model in (still, turned):
        model.optimizer = optimizer_of(model)
        model.optimizer.param_groups[0]["lr"] = 0.0
        take_steps(model, model.optimizer, 0, 5)
    kept = OptimizerState({}, rotates=True)
    kept.store(still.optimizer, still)
    turn(still, q)
    moved = optimizer_of(still)
    kept.restore(moved, still)
    for one, other in zip(still.parameters(), turned.parameters(), strict=True):
        expected = turned.optimizer.state[other]
        torch.testing.assert_close(moved.state[one]["exp_avg"], expected["exp_avg"])
        assert moved.state[one]["step"] == expected["step"] == 5


def test_second_moments_are_weighted_by_the_squares_of_the_rotation():
    q = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    v = {"x.lora_A.weight": torch.tensor([[1.0], [2.0]]), "x.lora_B.weight": torch.eye(2)}
    turns = dict.fromkeys(v, q * q)
    found = rotated(v | {"bias": torch.ones(1)}, turns)
    torch.testing.assert_close(found["x.lora_A.weight"], torch.tensor([[1.64], [1.36]]))
    expected = torch.tensor([[0.36, 0.64], [0.64, 0.36]])
    torch.testing.assert_close(found["x.lora_B.weight"], expected)
    assert torch.equal(found["bias"], torch.ones(1))


def test_the_rotation_is_found_from_the_factors_alone():
    trained = lora_state(0)
    q = random_rotation(3).to(next(iter(trained.values())).dtype)
    names = {name for name in trained if "lora_" in name}
    mixed = rotated(trained, dict.fromkeys(names, q))
    found = rotations(trained, mixed)
    assert found.keys() == names
    for turn_found in found.values():
        torch.testing.assert_close(turn_found, q)


def test_rotated_factors_are_the_nearest_to_the_mixed_ones():
    trained = lora_state(0)
    mixed = factorize([trained, lora_state(1)], [0.5, 0.5])
    turns = rotations(trained, mixed)

    def distance(state):
        return sum((state[name] - mixed[name]).square().sum().item() for name in turns)

    best = distance(rotated(trained, turns))
    assert best < distance(trained)
    for seed in range(20):
        other = random_rotation(3, seed).to(torch.float64)
        assert best < distance(rotated(trained, dict.fromkeys(turns, other)))


def test_moments_of_a_factor_that_is_frozen_for_a_round_are_kept():
    model, kept = Layer(), OptimizerState({}, rotates=False)
    for first, frozen in ((0, "lora_B"), (2, "lora_A"), (4, "lora_B")):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(frozen not in name)
        optimizer = optimizer_of(model)
        kept.restore(optimizer, model)
        take_steps(model, optimizer, first, 2)
        kept.store(optimizer, model)
    assert optimizer.state[model.q["lora_A"].weight]["step"] == 4
    assert optimizer.state[model.bias]["step"] == 6


def test_moments_are_those_of_the_same_run_and_of_the_last_round():
    context = Context(0, 1, {}, RecordDict(), {})
    model = Layer()
    optimizer = optimizer_of(model)
    take_steps(model, optimizer, 0, 1)
    kept = kept_by(context, 1, "{}", rotates=True)
    assert kept.is_fresh
    kept.store(optimizer, model)
    kept.keep(context, 1, "{}")
    assert not kept_by(context, 2, "{}", rotates=True).is_fresh
    assert kept_by(context, 3, "{}", rotates=True).is_fresh  # it was missing in round 2
    assert kept_by(context, 1, "{}", rotates=True).is_fresh
    assert kept_by(context, 2, '{"seed": 1}', rotates=True).is_fresh


def test_training_reports_whether_it_started_afresh(task, rows):
    train, kept = Train(local_steps=2, batch_size=8), OptimizerState({}, rotates=True)
    fresh = [
        train_locally(task, rows.train, train, "AB", 0, server_round=t, moments=kept)
        for t in (1, 2)
    ]
    assert [metrics["optimizer-fresh"] for metrics in fresh] == [1.0, 0.0]
    assert "optimizer-fresh" not in train_locally(task, rows.train, train, "AB", seed=0)


def test_a_node_that_loses_its_state_starts_afresh():
    def train(msg, context):
        t = int(msg.content["config"]["server-round"])
        kept = kept_by(context, t, "{}", rotates=False)
        fresh = float(kept.is_fresh)
        model = Layer()
        optimizer = optimizer_of(model)
        take_steps(model, optimizer, 0, 1)
        kept.store(optimizer, model)
        kept.keep(context, t, "{}")
        metrics = MetricRecord({"num-examples": 1, "fresh": fresh})
        content = RecordDict({"arrays": msg.content["arrays"], "metrics": metrics})
        return Message(content, reply_to=msg)

    app = ClientApp(mods=[peer_mixing])
    app.train()(train)
    grid = LocalGrid(app, 4)

    def lose(checkpoint):
        if checkpoint.server_round == 2:
            grid.contexts[grid.ids[1]].state["decaf.version"] = ConfigRecord({"version": "other"})

    for _ in range(2):  # the second run finds the moments of the first, and does not use them
        strategy = DLoRA("ring", evaluate_every=0, on_round=lose)
        start = ArrayRecord({"x": torch.zeros(2)})
        trained = strategy.start(grid, start, num_rounds=4).train_metrics_clientapp
        assert [trained[t]["fresh"] for t in range(1, 5)] == [1.0, 0.0, 0.25, 0.0]


def test_parameters_without_a_gradient_have_no_moments():
    model = Layer()
    model.unused = torch.nn.Parameter(torch.zeros(3))
    optimizer = optimizer_of(model)
    take_steps(model, optimizer, 0, 1)
    kept = OptimizerState({}, rotates=True)
    kept.store(optimizer, model)
    assert not [name for name in kept.state if "unused" in name]
    again = optimizer_of(model)
    kept.restore(again, model)
    assert model.unused not in again.state
    take_steps(model, again, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rotations_of_half_precision_factors_are_in_fp32(dtype):
    torch.manual_seed(0)
    a, b = "q.lora_A.weight", "q.lora_B.weight"
    trained = {a: torch.randn(3, 7), b: torch.randn(5, 3)}
    q = random_rotation(3)
    mixed = {a: (q @ trained[a]).to(dtype), b: (trained[b] @ q.T).to(dtype)}
    found = rotations({name: x.to(dtype) for name, x in trained.items()}, mixed)
    torch.testing.assert_close(found[a], q, atol=0.02, rtol=0)
