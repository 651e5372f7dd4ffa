"""Strategies with quantized posts, in addition to what test_conformance.py checks for all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.config import Posts
from flwr_decaf.lora import size_in_bytes
from flwr_decaf.messages.checkpoint import load_checkpoint, save_checkpoint
from flwr_decaf.messages.packing import pack, unpack
from flwr_decaf.messages.quantization import dequantize, quantize
from flwr_decaf.messages.shared_posts import POSTS_VARIABLE
from flwr_decaf.seeds import derive_seed
from flwr_decaf.strategies import STRATEGIES, DeCAF, DLoRA, FedAvg
from flwr_decaf.strategies.relay.attacks import byzantine_among
from flwr_decaf.strategies.relay.resuming import forget
from tests.apps.pure_mixing import app as pure_mixing_app
from tests.local_grid import LocalGrid
from tests.states import lora_state
from tests.strategies.conformance import equal, initial, run, train, train_told

START = {"x": torch.zeros(2, dtype=torch.float64)}


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_the_mean_of_the_nodes_is_kept_through_rounds_of_mixing(dtype):
    for n in (1, 2, 3, 6):
        strategy = DLoRA("ring", dtype=dtype)
        grid = LocalGrid(pure_mixing_app, n)
        strategy.start(grid, ArrayRecord(START), num_rounds=6)
        held = torch.stack([s["x"] for s in strategy.collect(grid).values()])
        places = torch.arange(n, dtype=torch.float64)
        np.testing.assert_allclose(held.mean(0), [places.mean(), (places**2).mean()], atol=1e-12)


def losing(node, rounds):
    """A grid on which a node forgets its model before it is called in some rounds."""
    app = ClientApp(mods=[peer_mixing])
    app.train()(train)
    grid = LocalGrid(app, 4)
    call = grid.call

    def lose_and_call(message):
        context = grid.contexts[message.metadata.dst_node_id]
        config = message.content.get("config", {})
        if grid.place_of(message) == node and config.get("server-round") in rounds:
            rounds.remove(config["server-round"])
            context.state.clear()
        return call(message)

    grid.call = lose_and_call
    return grid


@pytest.mark.parametrize("name", ["decaf", "dlora", "dlora-fa"])
def test_a_node_that_loses_its_model_gets_it_back_exactly_where_checkpoints_are_kept(name):
    _, whole, _ = run(name, rounds=4, evaluate_every=0, dtype="int8")
    keep = lambda reached: None  # noqa: E731
    left = [3]
    grid = losing(1, left)
    _, held, _ = run(name, rounds=4, evaluate_every=0, grid=grid, dtype="int8", on_round=keep)
    assert not left
    assert all(equal(whole[node], held[node]) for node in whole)


def test_elsewhere_it_gets_back_what_its_neighbours_saw():
    grid = losing(1, [2])
    options = {"rounds": 2, "evaluate_every": 0, "dtype": "int8", "on_round": forget}
    _, whole, _ = run("dlora", **options)
    _, held, _ = run("dlora", grid=grid, **options)
    back = [m.content for m in grid.sent if "arrays" in m.content][-1]["arrays"]
    own = initial()  # as it trained in round 1, from the initial arrays
    own = {k: x + 0.1 * 2 * torch.sin(x + 1) for k, x in own.items()}
    seed = derive_seed(0, "rounding", 1, 1)
    seen = dequantize(quantize(own, "int8", seed), "int8", like=own)
    assert equal(back.to_torch_state_dict(), seen)
    assert not equal(whole[1], held[1])
    for name, x in whole[1].items():
        torch.testing.assert_close(held[1][name], x, atol=0.1, rtol=0)


def test_checkpoints_keep_exact_states_and_come_back_from_disk(tmp_path):
    whole = run("decaf", rounds=3, dtype="int8")[1]
    run("decaf", rounds=2, dtype="int8", on_round=lambda c: save_checkpoint(tmp_path, c))
    kept = load_checkpoint(tmp_path)
    assert sorted(kept.copies) == [0, 1, 2, 3]
    assert unpack(kept.copies[2]).keys() == initial().keys()
    assert len(kept.posts[2].data) < len(kept.copies[2].data)
    resumed = run("decaf", rounds=3, dtype="int8", resume_from=kept)[1]
    assert all(equal(whole[node], resumed[node]) for node in whole)


def test_no_copy_is_sent_without_checkpoints():
    for keep, copied in ((forget, False), (lambda reached: None, True)):
        grid = run("decaf", rounds=1, dtype="int8", on_round=keep)[2]
        mail = [m.content["decaf.mail"] for m in grid.sent if "decaf.mail" in m.content]
        assert {bool(one["copied"]) for one in mail} == {copied}


def test_posts_in_shared_files(tmp_path, monkeypatch):
    sent = run("decaf", dtype="int8")[1]
    kept = {}
    keep = lambda reached: kept.update({reached.server_round: reached})  # noqa: E731
    monkeypatch.setenv(POSTS_VARIABLE, str(tmp_path))
    shared = run("decaf", dtype="int8", on_round=keep)[1]
    assert all(equal(sent[node], shared[node]) for node in sent)
    assert len(list(tmp_path.iterdir())) == 2 * 4  # a post and a copy of each node


def test_byzantine_posts_are_quantized_too():
    grid = LocalGrid(ClientApp(mods=[peer_mixing]), 4)
    grid.app.train()(train)
    strategy = DeCAF("complete", posts="int8", sign_flipping=1, evaluate_every=0)
    strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=1)
    strategy.collect(grid)
    (byzantine,) = byzantine_among(4, 1, seed=0)
    name = "model.q.lora_B.weight"
    own = lora_state(0)[name]
    own = own + 0.1 * (byzantine + 1) * torch.sin(own + 1)
    for message in grid.sent:
        if "decaf.posts" in message.content and grid.place_of(message) != byzantine:
            post = unpack(message.content["decaf.posts"][str(byzantine)])
            assert post[name].dtype == torch.int8
            seen = dequantize(post, "int8", like=lora_state(0))[name]
            torch.testing.assert_close(seen, -own, atol=float(own.abs().max()) / 127, rtol=0)


def test_a_post_that_is_not_finite_leaves_its_node_out(caplog):
    def train_badly(msg, context):
        reply = train(msg, context)
        if context.node_config["partition-id"] == 1:
            state = reply.content["arrays"].to_torch_state_dict()
            reply.content["arrays"] = ArrayRecord({k: x / 0 for k, x in state.items()})
        return reply

    app = ClientApp(mods=[peer_mixing])
    app.train()(train_badly)
    grid = LocalGrid(app, 4)
    strategy = DLoRA("complete", posts="int8", evaluate_every=0, on_round=lambda reached: None)
    strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=2)
    assert "node 1 failed: a post must be finite" in caplog.text
    assert all(torch.isfinite(x).all() for s in strategy.collect(grid).values() for x in s.values())


class TestFedAvg:
    both = ConfigRecord({"trainable-factors": "AB"})

    def run(self, dtype, name="fedavg", n=3, seed=0):
        app = ClientApp(mods=[peer_mixing])
        app.train()(train_told)
        grid = LocalGrid(app, n)
        strategy = STRATEGIES[name](num_rounds=1, evaluate_every=0, posts=dtype, seed=seed)
        arrays = ArrayRecord(lora_state(0))
        return strategy.start(grid, arrays, num_rounds=1, train_config=self.both), grid

    def test_both_ways_are_rounded(self):
        result, grid = self.run("int8")
        start = lora_state(0)
        down = quantize(start, "int8", derive_seed(0, "rounding", 0))
        down = dequantize(down, "int8", like=start)
        sent = [m.content["arrays"].to_torch_state_dict() for m in grid.sent]
        assert all(equal(down, state) for state in sent)
        total = {name: torch.zeros_like(x) for name, x in start.items()}
        for node in range(3):
            up = {k: x + 0.1 * (node + 1) * torch.sin(x + 1) for k, x in down.items()}
            posted = quantize(up, "int8", derive_seed(0, "rounding", 1, node))
            for name, x in dequantize(posted, "int8", like=up).items():
                total[name] += (10 + node) * x / 33  # num-examples
        for name, x in result.arrays.to_torch_state_dict().items():
            torch.testing.assert_close(x, total[name])

    def test_rounding_on_the_way_down_is_unbiased(self):
        start, draws = lora_state(0), 100
        errors = {name: torch.zeros_like(x) for name, x in start.items()}
        for seed in range(draws):
            _, grid = self.run("int8", n=1, seed=seed)
            for name, x in grid.sent[0].content["arrays"].to_torch_state_dict().items():
                errors[name] += (x - start[name]) / draws
        for name, error in errors.items():
            # A rounding error has at most half a scale as its standard deviation.
            step = start[name].abs().max() / 127
            assert error.abs().max() <= 5 * step / 2 / draws**0.5

    def test_nodes_round_differently_even_if_their_metrics_do_not_name_them(self, monkeypatch):
        seeds = []
        monkeypatch.setattr(
            "flwr_decaf.strategies.fedavg.quantize",
            lambda state, dtype, seed: seeds.append(seed) or quantize(state, dtype, seed),
        )
        app = ClientApp(mods=[peer_mixing])
        app.train()(train)
        strategy = FedAvg(num_rounds=1, evaluate_every=0, posts="int8")
        arrays = ArrayRecord(lora_state(0))
        strategy.start(LocalGrid(app, 3), arrays, num_rounds=1, train_config=self.both)
        assert len(set(seeds)) == len(seeds) == 4  # one way down, three ways up

    def test_bytes_are_those_of_a_quantized_message_both_ways(self):
        posted = quantize(lora_state(0), "int8", seed=0)
        metrics = self.run("int8")[0].train_metrics_clientapp[1]
        assert metrics["bytes-sent"] == 2 * len(pack(posted).data)
        metrics = self.run("fp32")[0].train_metrics_clientapp[1]
        assert metrics["bytes-sent"] == 2 * size_in_bytes(lora_state(0))

    def test_centralized_rounds_nothing(self):
        exact, coarse = (self.run(dtype, "centralized")[0] for dtype in ("fp32", "int8"))
        assert equal(*(ran.arrays.to_torch_state_dict() for ran in (exact, coarse)))
        assert coarse.train_metrics_clientapp[1]["bytes-sent"] == 0


@pytest.mark.parametrize("kind", [DeCAF, FedAvg])
def test_the_argument_has_three_forms(kind):
    more = {"num_rounds": 1} if kind is FedAvg else {}
    for given in ({"posts": "int8"}, {"posts": Posts("int8")}, {"dtype": "int8"}):
        assert kind(**given, **more).posts == Posts("int8")
    assert kind(**more).posts == Posts("fp32")
    with pytest.raises(ValueError, match=r"posts must be one of fp32, bf16, int8; got 'int4'"):
        kind(posts="int4", **more)
