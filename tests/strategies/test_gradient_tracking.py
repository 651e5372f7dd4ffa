"""Gradient tracking over the relay: sums, missing and lost nodes, resuming, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.config import Posts
from flwr_decaf.messages.checkpoint import load_checkpoint, save_checkpoint
from flwr_decaf.messages.packing import unpack
from flwr_decaf.strategies import DLoRA, GradientTracking, LocalOnly
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from tests.dense_rows import without_nodes
from tests.keys import keyed_grid, models_of
from tests.local_grid import LocalGrid
from tests.states import lora_state
from tests.strategies.conformance import equal, train
from tests.strategies.test_mixing_steps import failing

KINDS = GradientTracking, DLoRA
START = {"x": torch.zeros(2, dtype=torch.float64)}
RATES = np.array([0.1, 0.3, 0.2, 0.4, 0.15, 0.25])  # of the nodes
OPTIMA = np.array([[0.0, 1], [4, -2], [8, 5], [-3, 0], [1, 1], [2, -6]])


def descend(msg, context):
    """Take one step towards the node's own optimum; refuse arrays that are not of the model."""
    (name, x), *others = msg.content["arrays"].to_torch_state_dict().items()
    assert (name, others) == ("x", [])
    place = int(context.node_config["partition-id"])
    x = x + RATES[place] * (torch.from_numpy(OPTIMA[place]) - x)
    content = {"arrays": ArrayRecord({"x": x}), "metrics": MetricRecord({"num-examples": 1})}
    return Message(RecordDict(content), reply_to=msg)


def evaluate(msg, context):
    assert list(msg.content["arrays"]) == ["x"]
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=msg)


descending = ClientApp(mods=[peer_mixing])
descending.train()(descend)
descending.evaluate()(evaluate)

training = ClientApp(mods=[peer_mixing])
training.train()(train)


def expected(matrices, away=None):
    """What the nodes hold after rounds of training and mixing by matrices, in numpy."""
    n = len(matrices[0][0])
    x, y, change = (np.zeros((n, 2)) for _ in range(3))
    for server_round, mixes in enumerate(matrices, start=1):
        here = [i for i in range(n) if i not in (away or {}).get(server_round, ())]
        new = RATES[:n, None] * (OPTIMA[:n] - x)
        y[here] += new[here] - change[here]
        x[here] += y[here]
        change[here] = new[here]
        for w in mixes:
            x, y = w @ x, w @ y
    return x


def run(strategy, grid, rounds, start=START, **options):
    result = strategy.start(grid, ArrayRecord(start), num_rounds=rounds, **options)
    return strategy.collect(grid), result


def held_after(strategy, grid, rounds):
    states, _ = run(strategy, grid, rounds)
    return torch.stack([states[node]["x"] for node in sorted(states)]).numpy()


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("evaluate_every", [0, 2])
def test_the_nodes_hold_what_the_formulas_give(n, evaluate_every):
    w = build_mixing_matrix("ring", n)
    held = held_after(GradientTracking(evaluate_every=evaluate_every), LocalGrid(descending, n), 4)
    np.testing.assert_allclose(held, expected([[w]] * 4), atol=1e-13)


def test_several_mixes_in_a_round_along_changing_graphs_apply_to_both_parts():
    strategy = GradientTracking(
        "ring", dynamic="base", topology_options={"peers": 2}, mixing_steps="period"
    )
    held = held_after(strategy, LocalGrid(descending, 6), 3)
    steps = strategy.network.period
    ws = [strategy.network.of_round(t) for t in range(1, 3 * steps + 1)]
    turns = [ws[t : t + steps] for t in range(0, len(ws), steps)]
    np.testing.assert_allclose(held, expected(turns), atol=1e-12)
    np.testing.assert_allclose(held, np.tile(held.mean(axis=0), (6, 1)), atol=1e-12)


def test_where_a_round_gives_the_exact_mean_the_models_are_those_of_dlora():
    held = [held_after(kind("complete"), LocalGrid(descending, 4), 3) for kind in KINDS]
    np.testing.assert_allclose(*held, atol=1e-13)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_rounded_posts_preserve_the_mean_of_the_models(dtype):
    n, start = 6, lora_state(0)
    means = []
    for posts in (dtype, "fp32"):  # the first round's changes do not depend on posts
        states, _ = run(GradientTracking(posts=posts), LocalGrid(training, n), 1, start)
        means.append({key: sum(s[key] for s in states.values()) / n for key in start})
    for key in start:
        torch.testing.assert_close(*(mean[key] for mean in means), atol=1e-6, rtol=0)


def test_a_node_that_is_away_for_a_round_continues_from_its_last_change():
    n, w = 5, build_mixing_matrix("ring", 5)
    strategy = GradientTracking(participation=[[0, 1, 2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 3, 4]])
    held = held_after(strategy, LocalGrid(descending, n), 3)
    turns = [[w], [without_nodes(w, {2})], [w]]
    np.testing.assert_allclose(held, expected(turns, away={2: {2}}), atol=1e-13)


def test_a_node_that_misses_a_mix_keeps_the_sums():
    n, w = 5, build_mixing_matrix("ring", 5)
    strategy = GradientTracking(mixing_steps=2, evaluate_every=0)
    held = held_after(strategy, failing(n, {2: {2}}, descending), 2)
    # Node 2 misses the second mix of round 1, and takes the mail of the first when it trains again.
    turns = [[w, without_nodes(w, {2})], [w, w]]
    np.testing.assert_allclose(held, expected(turns), atol=1e-13)


@pytest.mark.parametrize("encryption", ["none", "x25519"])
@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_node_that_loses_its_state_continues_to_the_bit(dtype, encryption, tmp_path):
    def held(lost):
        posts = Posts(dtype, encryption=encryption)
        keys = tmp_path / f"keys-{lost}"
        grid = LocalGrid(training, 4) if encryption == "none" else keyed_grid(training, keys, 4)
        strategy = GradientTracking(posts=posts, evaluate_every=0)
        configure = strategy.configure_train

        def configure_after_a_loss(server_round, *rest):
            if lost and server_round == 3:
                grid.contexts[grid.ids[1]].state.clear()
            return configure(server_round, *rest)

        strategy.configure_train = configure_after_a_loss
        states, _ = run(strategy, grid, 4, lora_state(0))
        return states or models_of(grid)

    whole, again = held(False), held(True)
    assert len(whole) == 4
    assert all(equal(whole[node], again[node]) for node in whole)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_run_resumes_from_a_checkpoint_on_disk_to_the_bit(dtype, tmp_path):
    start = lora_state(0, dtype=torch.float32)
    save = lambda reached: save_checkpoint(tmp_path, reached)  # noqa: E731
    run(GradientTracking(posts=dtype, on_round=save), LocalGrid(training, 4), 2, start)
    strategy = GradientTracking(posts=dtype, resume_from=load_checkpoint(tmp_path))
    resumed, again = run(strategy, LocalGrid(training, 4), 4, start)
    whole, once = run(GradientTracking(posts=dtype), LocalGrid(training, 4), 4, start)
    assert all(equal(whole[node], resumed[node]) for node in whole)
    assert equal(*(ran.arrays.to_torch_state_dict() for ran in (once, again)))


def test_posts_in_a_store_give_the_same_models(tmp_path, monkeypatch):
    from flwr_decaf.messages.shared_posts import STORE_VARIABLE

    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path))
    stored = held_after(GradientTracking(posts=Posts(store=str(tmp_path))), grid_of(4), 3)
    assert not list(tmp_path.iterdir())
    monkeypatch.delenv(STORE_VARIABLE)
    assert np.array_equal(stored, held_after(GradientTracking(), grid_of(4), 3))


def grid_of(n):
    return LocalGrid(descending, n)


def test_a_local_head_trains_as_if_alone():
    head = "model.classifier.weight"
    states, _ = run(GradientTracking(local_head=True), LocalGrid(training, 4), 4, lora_state(0))
    alone, _ = run(LocalOnly(), LocalGrid(training, 4), 4, lora_state(0))
    assert all(torch.equal(states[node][head], alone[node][head]) for node in range(4))


def test_only_models_leave_a_run(tmp_path):
    """A node's file, the nodes' models and the average have the tensors of the model alone."""
    configs = {}
    for place in range(3):
        configs[place] = {"partition-id": place, "num-partitions": 3}
        configs[place]["adapter-path"] = str(tmp_path / f"{place}.safetensors")
    grid = LocalGrid(descending, 3, configs.get)
    states, result = run(GradientTracking(), grid, 2)
    assert list(result.arrays) == ["x"]
    for place, state in states.items():
        written = safetensors.torch.load_file(configs[place]["adapter-path"])
        assert list(written) == list(state) == ["x"]
        assert torch.equal(written["x"], state["x"])


def test_a_post_has_two_parts_and_the_third_only_returns_to_its_node():
    grid, kept = LocalGrid(descending, 3), []
    strategy = GradientTracking("ring", evaluate_every=0, on_round=kept.append)
    run(strategy, grid, 2)
    assert {len(unpack(post)) for post in kept[-1].posts.values()} == {2}
    assert {len(unpack(copy)) for copy in kept[-1].copies.values()} == {3}
    received = [m.content["decaf.posts"] for m in grid.sent if "decaf.posts" in m.content]
    assert {len(unpack(post)) for posts in received for post in posts.values()} == {2}


def test_the_metrics_are_those_of_the_models():
    """After the first round, the models are those of DLoRA, and so are the distances."""
    lines = {}
    app = ClientApp(mods=[peer_mixing])
    app.train()(train)
    app.evaluate()(lambda msg, context: evaluated(msg))
    for kind in KINDS:
        _, result = run(kind("ring"), LocalGrid(app, 4), 1, lora_state(0))
        both = result.train_metrics_clientapp[1], result.evaluate_metrics_clientapp[1]
        lines[kind] = both[0]["distance-to-mean"], both[1]["mixing-interference"]
    assert lines[DLoRA] == pytest.approx(lines[GradientTracking])
    assert min(lines[DLoRA]) > 0


def evaluated(msg):
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=msg)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"robust": "clipping"}, "robust.method must be none with gradient-tracking"),
        ({"sign_flipping": 1}, "attack.sign-flipping must be 0 with gradient-tracking"),
        ({"weighted_mixing": True}, "weighted-mixing must be false with gradient-tracking"),
        (
            {"weights": "metropolis-examples"},
            "topology.weights must not be metropolis-examples with gradient-tracking",
        ),
    ],
)
def test_what_does_not_preserve_the_sums_is_refused(options, error):
    with pytest.raises(ValueError, match=error):
        GradientTracking("ring", **options)
