from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
import torch
from torch import nn

from flwr_decaf.matching import Matching, assignment, find_groups, permuted
from flwr_decaf.matching.activations import Moments, correlations
from flwr_decaf.matching.assignment import assign
from flwr_decaf.rules import RULES
from tests.matching.models import (
    MODELS,
    Wrapped,
    build,
    draw,
    groups_of,
    logits,
    pictures,
    state_of,
)

DATA = [pictures(seed=seed) for seed in (1, 2, 3)]


def matching(name, data=DATA):
    model, groups = build(name), groups_of(name)
    return model, groups, Matching(model, groups, data)


@pytest.mark.parametrize("name", MODELS)
class TestEveryArchitecture:
    def test_a_permuted_copy_is_aligned_exactly(self, name):  # invariant 14
        model, groups, part = matching(name)
        state = state_of(model)
        _, aligned = part.align([state, permuted(state, groups, draw(groups))])
        merged = RULES["matched"]([state, aligned], [0.3, 0.7])
        torch.testing.assert_close(logits(model, merged), logits(model, state))

    def test_identical_models_are_a_fixed_point(self, name):  # invariant 14
        model, _, part = matching(name)
        settled = part.settle(state_of(model))
        merged = part.settle(RULES["matched"](part.align([settled] * 3), [0.5, 0.25, 0.25]))
        for key, tensor in settled.items():
            torch.testing.assert_close(merged[key], tensor, rtol=1e-9, atol=1e-9)

    def test_permuting_a_node_permutes_the_merge_and_nothing_else(self, name):
        model, groups, part = matching(name)
        mine, theirs = state_of(model), state_of(build(name, seed=5))
        hidden = permuted(theirs, groups, draw(groups))
        once, again = (
            part.settle(RULES["matched"](part.align([mine, other]), [0.5, 0.5]))
            for other in (theirs, hidden)
        )
        torch.testing.assert_close(logits(model, again), logits(model, once))


def test_units_are_matched_despite_noise():
    # Unit i of the other model is own unit (2, 0, 1)[i] with noise; the inverse is (1, 2, 0).
    model = Wrapped(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)))
    data = [{"pixel_values": torch.randn(200, 3, generator=torch.Generator().manual_seed(0))}]
    own = state_of(model) | {"network.0.weight": torch.eye(3), "network.0.bias": torch.zeros(3)}
    noise = 0.1 * torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    other = own | {"network.0.weight": torch.eye(3)[[2, 0, 1]] + noise}
    groups = find_groups(model, data[0])
    ((matrix,),) = correlations(model, groups, [own, other], data)
    assert assign(matrix).tolist() == [1, 2, 0]


def test_correlations_are_pearsons():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)) * 0.01 + 1000  # a mean large enough to cause cancellation
    y = np.concatenate([x[:, ::-1] + rng.normal(size=(50, 3)) * 0.01, np.ones((50, 1))], axis=1)
    moments = Moments()
    for start in (0, 7, 30):
        stop = {0: 7, 7: 30, 30: 50}[start]
        moments.add(torch.tensor(x[start:stop]), torch.tensor(y[start:stop]))
    found = moments.correlation()
    expected = np.corrcoef(x.T, y[:, :3].T)[:3, 3:]
    np.testing.assert_allclose(found[:, :3], expected, atol=1e-6)
    assert found[:, 3].tolist() == [0, 0, 0]  # a constant unit


def test_the_assignment_is_optimal():
    # By hand: 0.9 + 0.8 beats 0.1 + 0.9, although column 1 is the largest of both rows.
    assert assign(torch.tensor([[0.1, 0.9], [0.8, 0.9]])).tolist() == [1, 0]
    assert assign(torch.zeros(4, 4)).tolist() == [0, 1, 2, 3]
    assert assign(torch.full((2, 2), torch.nan)).tolist() == [0, 1]


def test_recomputed_batch_norm_statistics_by_hand():
    model = Wrapped(nn.BatchNorm1d(1))
    batches = [{"pixel_values": torch.tensor([[v], [v + 2]])} for v in (0.0, 10.0)]
    state = state_of(model) | {"network.running_mean": torch.tensor([99.0])}
    settled = Matching(model, [], batches).settle(state)
    assert settled["network.running_mean"].tolist() == [6.0]  # of 1 and 11
    assert settled["network.running_var"].tolist() == [2.0]  # unbiased, of both batches
    assert state["network.running_mean"].tolist() == [99.0]
    assert model.network.momentum == 0.1


def test_a_node_without_data_is_rejected():
    model = build("mlp")
    with pytest.raises(ValueError, match="must have data to compare units on; got no rows"):
        Matching(model, find_groups(model, pictures(2)), [])


def test_states_of_adapters_are_rejected():
    model = build("mlp")
    part = Matching(model, find_groups(model, pictures(2)), DATA)
    with pytest.raises(ValueError, match=r"whole models; network\..* is not among the arrays"):
        part.align([{"lora_A.weight": torch.zeros(1)}] * 2)


def test_statistics_of_other_data_prevent_matching_unless_reset_first():
    # Batch-norm and ReLU set every input of the other model's second layer to 0.
    layers = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU()
    model = Wrapped(nn.Sequential(*layers, nn.Linear(3, 2))).eval()
    data = [{"pixel_values": torch.randn(200, 3, generator=torch.Generator().manual_seed(0))}]
    own = state_of(model)
    for layer in (0, 3):
        own |= {f"network.{layer}.weight": torch.eye(3), f"network.{layer}.bias": torch.zeros(3)}
    groups = find_groups(model, data[0])
    other = permuted(own, groups, [torch.tensor([2, 0, 1]) for _ in groups])
    other["network.1.running_mean"] = torch.full((3,), 9.0)
    for resets_first in (False, True):
        _, aligned = Matching(model, groups, data, resets_first).align([own, other])
        found = torch.equal(aligned["network.3.weight"], own["network.3.weight"])
        assert found == resets_first


def test_the_extra_is_named_if_scipy_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'flwr-decaf\[dimat\]'"):
        importlib.reload(assignment)
