"""Posts that hold a share of the energy, in addition to what test_conformance.py checks."""

from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.config import Posts
from flwr_decaf.messages.packing import pack, record_of
from flwr_decaf.messages.quantization import quantize
from flwr_decaf.messages.records import POST
from flwr_decaf.strategies import STRATEGIES, DeCAF
from flwr_decaf.strategies.relay.arrivals import take_posts
from flwr_decaf.strategies.relay.resuming import forget
from tests.local_grid import LocalGrid
from tests.states import dense_products, lora_state
from tests.strategies.conformance import equal, evaluate, train
from tests.strategies.test_quantized_posts import losing

LAYERS = sorted(dense_products(lora_state(0)))


def run(n=3, rounds=1, grid=None, trainer=train, initial=None, **options):
    """Return the nodes' final models, and the metrics that each node reported in each round."""
    app, lines = ClientApp(mods=[peer_mixing]), []
    app.train()(trainer)
    app.evaluate()(evaluate)

    def note(contents, _):
        lines.append([dict(next(iter(one.metric_records.values()))) for one in contents])
        return MetricRecord({"nodes": len(contents)})

    grid = grid or LocalGrid(app, n)
    options = {"topology": "complete", "train_metrics_aggr_fn": note, **options}
    strategy = DeCAF(**options)
    strategy.start(grid, ArrayRecord(initial or lora_state(0)), num_rounds=rounds)
    return strategy.collect(grid), lines


def trained(node, initial=None):
    start = initial or lora_state(0)
    return {k: x + 0.1 * (node + 1) * torch.sin(x + 1) for k, x in start.items()}


def best(p, rank):
    u, s, vh = torch.linalg.svd(p, full_matrices=False)
    return u[:, :rank] * s[:rank] @ vh[:rank]


def rank_of(p, energy):
    squares = torch.linalg.svdvals(p).square()
    return int((squares.cumsum(0) < energy * squares.sum()).sum()) + 1


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("energy", [0.6, 0.9])
def test_a_node_mixes_what_all_have_posted_and_keeps_what_it_has_not(n, energy):
    held, _ = run(n=n, energy=energy)
    for layer in LAYERS:
        products = [dense_products(trained(node))[layer] for node in range(n)]
        posted = [best(p, rank_of(p, energy)) for p in products]
        for node in range(n):
            mixed = sum(posted) / n + products[node] - posted[node]
            torch.testing.assert_close(dense_products(held[node])[layer], best(mixed, 3))


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_the_mean_product_is_kept_through_rounds_of_mixing(n):
    def train_once(msg, context):
        if msg.content["config"]["server-round"] == 1:
            return train(msg, context)
        metrics = MetricRecord({"num-examples": 1})
        return Message(
            RecordDict({"arrays": msg.content["arrays"], "metrics": metrics}), reply_to=msg
        )

    initial = lora_state(0, rank=7)  # that of the largest layer: nothing is truncated at the nodes
    start = {node: dense_products(trained(node, initial)) for node in range(n)}
    held, lines = run(
        n=n, rounds=5, topology="ring", energy=0.7, trainer=train_once, initial=initial
    )
    assert all(line["posted-rank"] < 5 for line in lines[-1])
    for layer in LAYERS:
        mean = sum(start[node][layer] for node in start) / n
        after = sum(dense_products(held[node])[layer] for node in held) / n
        torch.testing.assert_close(after, mean)


def test_bytes_fall_with_the_posted_rank():
    by_energy = {energy: run(energy=energy)[1][0] for energy in (1.0, 0.99, 0.9, 0.6, 0.1)}
    assert not any("posted-rank" in line for line in by_energy.pop(1.0))
    for energy, lines in by_energy.items():
        for node, line in enumerate(lines):
            products = dense_products(trained(node))
            ranks = [rank_of(products[layer], energy) for layer in LAYERS]
            assert line["posted-rank"] == pytest.approx(sum(ranks) / 3)
            sides = [sum(products[layer].shape) for layer in LAYERS]
            values = sum(r * side for r, side in zip(ranks, sides, strict=True)) + 4 * 6
            assert line["bytes-sent"] == 2 * values * 8
    sent = [sum(line["bytes-sent"] for line in lines) for lines in by_energy.values()]
    assert sent == sorted(sent, reverse=True)
    assert sent[-1] < sent[0]


def test_with_a_share_of_one_nodes_hold_what_they_held_before():
    (plain, _), (whole, _) = run(rounds=3), run(rounds=3, energy=1.0)
    assert all(equal(plain[node], whole[node]) for node in plain)
    (cut, _) = run(rounds=3, energy=0.6)
    assert not any(equal(plain[node], cut[node]) for node in plain)


def test_nodes_train_at_their_full_rank_whatever_they_post():
    seen = []

    def watched(msg, context):
        state = msg.content["arrays"].to_torch_state_dict()
        seen.append({name: tuple(x.shape) for name, x in state.items()})
        return train(msg, context)

    zero = {name: torch.zeros_like(x) if "B" in name else x for name, x in lora_state(0).items()}
    held, _ = run(rounds=3, trainer=watched, initial=zero, energy=0.5)
    whole = {name: tuple(x.shape) for name, x in zero.items()}
    assert seen == [whole] * 9
    assert [{name: tuple(x.shape) for name, x in one.items()} for one in held.values()] == [
        whole
    ] * 3


def test_a_node_that_loses_its_model_gets_its_post_back_at_its_full_rank():
    options = {"rounds": 2, "evaluate_every": 0, "energy": 0.6, "on_round": forget}
    grid = losing(1, [2])
    run(grid=grid, topology="ring", **options)
    back = [m.content for m in grid.sent if "arrays" in m.content][-1]["arrays"]
    back = back.to_torch_state_dict()
    assert {k: x.shape for k, x in back.items()} == {k: x.shape for k, x in trained(1).items()}
    for layer, p in dense_products(trained(1)).items():
        torch.testing.assert_close(dense_products(back)[layer], best(p, rank_of(p, 0.6)))
        a = f"{layer}.lora_A.weight"
        assert torch.equal(back[a][-1], lora_state(0)[a][-1])


def test_it_gets_it_back_exactly_where_checkpoints_are_kept():
    options = {"rounds": 4, "evaluate_every": 0, "energy": 0.6, "topology": "ring"}
    whole, _ = run(n=4, **options)
    held, _ = run(grid=losing(1, [3]), on_round=lambda reached: None, **options)
    assert all(equal(whole[node], held[node]) for node in whole)


@pytest.mark.parametrize(
    "options",
    [
        {"robust": "clipping"},
        {"robust": "trimmed-mean"},
        {"dynamic": "base", "mixing_steps": "period", "posts": Posts("int8", energy=0.6)},
        {"weighted_mixing": True, "posts": "bf16"},
        {"weights": "metropolis-examples", "local_head": True},
        {"ranks": [3, 1, 2]},
        {"sign_flipping": 1},
    ],
    ids=str,
)
def test_other_options_work_with_truncated_posts(options):
    failed = []
    note = {"on_failure": lambda *what: failed.append(what), "rounds": 2}
    held, lines = run(n=5, **{"energy": 0.6, **note, **options})
    whole, _ = run(n=5, **{**note, **options, "posts": "fp32"})
    assert failed == []
    assert all(1 <= line["posted-rank"] < 3 for line in lines[0])
    for node, state in held.items():
        assert all(torch.isfinite(x).all() for x in state.values())
        assert {k: x.shape for k, x in state.items()} == {
            k: x.shape for k, x in whole[node].items()
        }
        assert not equal(state, whole[node])


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_the_relay_refuses_ranks_above_the_sender_s_own(dtype):
    def causes(rank, energy):
        post = record_of(pack(quantize(lora_state(1, rank), dtype, 0)))
        arrived = take_posts(
            {4: RecordDict({POST: post})}, {4: lora_state(0)}, Posts(dtype, energy=energy)
        )
        assert (4 in arrived.states) == (4 not in arrived.causes)
        return arrived.causes

    assert [bool(causes(rank, 0.9)) for rank in (1, 2, 3, 4)] == [False, False, False, True]
    assert [bool(causes(rank, 1.0)) for rank in (1, 2, 3, 4)] == [True, True, False, True]


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"decaf"}))
def test_strategies_that_average_factors_refuse_to_truncate_posts(name):
    more = {"num_rounds": 1} if name in ("fedavg", "centralized") else {}
    with pytest.raises(ValueError, match=r"posts.energy must be 1 .*; got 0.9; omit it"):
        STRATEGIES[name](energy=0.9, **more)


@pytest.mark.parametrize("energy", [0, -0.5, 1.01, float("nan"), "0.9", True])
def test_a_share_is_above_zero_and_at_most_one(energy):
    with pytest.raises((TypeError, ValueError), match="energy must"):
        DeCAF(energy=energy)
