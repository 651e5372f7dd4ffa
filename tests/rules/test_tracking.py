"""Gradient tracking as a pure function: by hand, its sums, and where it converges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flwr_decaf.rules import average
from flwr_decaf.rules.tracking import model_of, split, track, with_tracking
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from tests.dense_rows import without_nodes
from tests.states import lora_state

Y, DELTA = "decaf.tracked.x", "decaf.change.x"


def scalar(value):
    return torch.tensor([value], dtype=torch.float64)


def mixed(states, w):
    """Mix what nodes exchange; each keeps its own Delta."""
    parts = [split(state) for state in states]
    exchanged = [part for part, _ in parts]
    result = []
    for i, (own, change) in enumerate(parts):
        others = [j for j in range(len(states)) if j != i]
        neighbourhood = [own, *(exchanged[j] for j in others)]
        result.append(average(neighbourhood, [w[i, i], *w[i, others]]) | change)
    return result


def column(states, name):
    return torch.stack([state[name] for state in states]).numpy()


def test_two_nodes_by_hand():
    """Two nodes that mix by 3/4 and 1/4 and move by 1 and 5, then by 2 and 0."""
    w = np.array([[0.75, 0.25], [0.25, 0.75]])
    nodes = [with_tracking({"x": scalar(value)}) for value in (10.0, 20.0)]
    nodes = [track(node, {"x": node["x"] + d}) for node, d in zip(nodes, (1.0, 5.0), strict=True)]
    assert column(nodes, "x").ravel().tolist() == [11, 25]
    assert column(nodes, Y).ravel().tolist() == [1, 5]
    nodes = mixed(nodes, w)
    assert column(nodes, "x").ravel().tolist() == [14.5, 21.5]
    assert column(nodes, Y).ravel().tolist() == [2, 4]
    assert column(nodes, DELTA).ravel().tolist() == [1, 5]
    nodes = [track(node, {"x": node["x"] + d}) for node, d in zip(nodes, (2.0, 0.0), strict=True)]
    # c = 2 - 1 and 4 - 5, so y = 2 + 1 and 0 - 1, and p = x + y.
    assert column(nodes, Y).ravel().tolist() == [3, -1]
    assert column(nodes, "x").ravel().tolist() == [17.5, 20.5]
    assert column(nodes, DELTA).ravel().tolist() == [2, 0]


def test_the_names_keep_their_order_and_the_arguments_are_not_changed():
    model = lora_state(0)
    own = with_tracking(model)
    before = {name: x.clone() for name, x in own.items()}
    after = track(own, lora_state(1))
    assert list(after) == list(own)
    assert list(model_of(after)) == list(split(model)[0]) == list(model)
    assert all(torch.equal(own[name], x) for name, x in before.items())
    exchanged, change = split(after)
    assert len(exchanged) == 2 * len(model)
    assert len(change) == len(model)


def test_a_state_without_tracking_is_what_was_trained():
    trained = lora_state(1)
    after = track(lora_state(0), trained)
    assert after.keys() == trained.keys()
    assert all(after[name] is trained[name] for name in trained)


def test_integers_and_batch_norm_statistics_are_not_tracked():
    model = {
        "bn.running_var": torch.ones(2),
        "bn.running_mean": torch.zeros(2),
        "bn.num_batches_tracked": torch.tensor(3),
        "bn.weight": torch.ones(2),
    }
    own = with_tracking(model)
    assert [name for name in own if name not in model] == [
        "decaf.tracked.bn.weight",
        "decaf.change.bn.weight",
    ]
    own["decaf.tracked.bn.weight"] += 5
    after = track(own, {name: x + 1 for name, x in model.items()})
    assert after["bn.running_var"].tolist() == [2, 2]
    assert after["bn.num_batches_tracked"] == 4
    assert after["bn.weight"].tolist() == [7, 7]


def test_a_node_that_mixes_with_none_trains_as_without_tracking_to_the_bit():
    own = with_tracking(lora_state(0, dtype=torch.float32))
    for seed in (1, 2, 3):
        trained = lora_state(seed, dtype=torch.float32)
        own = track(own, trained)
        assert all(torch.equal(own[name], x) for name, x in trained.items())


@pytest.mark.parametrize("missing", [set(), {2}, {0, 3}])
def test_sums_over_the_nodes_are_those_of_the_changes(missing):
    """Also if some nodes miss the second of four rounds: their last change continues to count."""
    n, generator = 5, np.random.default_rng(0)
    nodes = [with_tracking({"x": torch.zeros(3, dtype=torch.float64)}) for _ in range(n)]
    changes = np.zeros((n, 3))
    for server_round in (1, 2, 3, 4):
        away = missing if server_round == 2 else set()
        before = column(nodes, "x").sum(axis=0)
        for i in set(range(n)) - away:
            changes[i] = generator.normal(size=3)
            nodes[i] = track(nodes[i], {"x": nodes[i]["x"] + torch.from_numpy(changes[i])})
        posted = [i for i in range(n) if i not in away]
        moved = column(nodes, Y)[posted].sum(axis=0)
        nodes = mixed(nodes, without_nodes(build_mixing_matrix("ring", n), away))
        np.testing.assert_allclose(column(nodes, Y).sum(axis=0), changes.sum(axis=0), atol=1e-13)
        np.testing.assert_allclose(column(nodes, "x").sum(axis=0), before + moved, atol=1e-13)
        if not missing:
            np.testing.assert_allclose(moved, changes.sum(axis=0), atol=1e-13)


def test_on_a_complete_graph_all_nodes_agree_after_every_mix():
    nodes = [with_tracking({"x": scalar(value)}) for value in (1.0, 5.0, 6.0)]
    for step in (1.0, 2.0):
        nodes = [track(own, {"x": own["x"] * step + i}) for i, own in enumerate(nodes)]
        nodes = mixed(nodes, np.full((3, 3), 1 / 3))
        for name in ("x", Y):
            np.testing.assert_allclose(column(nodes, name), column(nodes, name).mean(), atol=1e-14)


def descend(rounds, tracks, local_steps, n=5, rate=0.1):
    """Minimize the mean of f_i(x) = h_i (x - b_i)^2 / 2 on a ring, with a constant step."""
    generator = np.random.default_rng(1)
    h, b = generator.uniform(0.5, 2, n), generator.normal(0, 3, n)
    w = build_mixing_matrix("ring", n)
    nodes = [with_tracking({"x": scalar(0.0)}) if tracks else {"x": scalar(0.0)} for _ in h]
    for _ in range(rounds):
        for i, own in enumerate(nodes):
            x = own["x"]
            for _ in range(local_steps):
                x = x - rate * h[i] * (x - b[i])
            nodes[i] = track(own, {"x": x})
        nodes = mixed(nodes, w)
    return column(nodes, "x").ravel(), float((h * b).sum() / h.sum())


def test_tracking_reaches_the_optimum_of_the_mean_where_averaging_does_not():
    reached, optimum = descend(300, tracks=True, local_steps=1)
    np.testing.assert_allclose(reached, optimum, atol=1e-9)
    averaged, _ = descend(300, tracks=False, local_steps=1)
    assert np.ptp(averaged) > 0.1  # the nodes do not even agree
    assert np.abs(averaged - optimum).max() > 0.1


def test_with_local_steps_the_nodes_agree_on_where_their_changes_cancel():
    reached, _ = descend(300, tracks=True, local_steps=4)
    np.testing.assert_allclose(reached, reached.mean(), atol=1e-9)
    generator = np.random.default_rng(1)
    h, b = generator.uniform(0.5, 2, 5), generator.normal(0, 3, 5)
    pulls = 1 - (1 - 0.1 * h) ** 4  # Delta_i = pulls_i (b_i - x)
    np.testing.assert_allclose(reached[0], (pulls * b).sum() / pulls.sum(), atol=1e-9)
    averaged, _ = descend(300, tracks=False, local_steps=4)
    assert np.ptp(averaged) > 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_follows_single_precision(dtype):
    generator = torch.Generator().manual_seed(0)
    half = [with_tracking({"x": torch.zeros(50, dtype=dtype)}) for _ in range(4)]
    single = [with_tracking({"x": torch.zeros(50)}) for _ in range(4)]
    w = build_mixing_matrix("ring", 4)
    for _ in range(5):
        moves = [torch.randn(50, generator=generator).to(dtype) for _ in range(4)]
        for nodes in (half, single):
            for i, move in enumerate(moves):
                nodes[i] = track(nodes[i], {"x": nodes[i]["x"] + move.to(nodes[i]["x"].dtype)})
        half, single = mixed(half, w), mixed(single, w)
    eps = torch.finfo(dtype).eps
    for one, exact in zip(half, single, strict=True):
        assert {x.dtype for x in one.values()} == {dtype}
        for name in ("x", Y):
            torch.testing.assert_close(one[name].float(), exact[name], atol=10 * eps, rtol=10 * eps)
