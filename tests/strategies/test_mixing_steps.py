"""Several exchanges in each round."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.lora import size_in_bytes
from flwr_decaf.messages.metrics import metrics_of
from flwr_decaf.messages.packing import pack, unpack
from flwr_decaf.messages.quantization import quantize
from flwr_decaf.seeds import derive_seed
from flwr_decaf.strategies import DLoRA, TADLoRA
from flwr_decaf.strategies.relay.attacks import byzantine_among
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from flwr_decaf.topology.network import build_time_varying_network
from tests.apps.pure_mixing import app
from tests.dense_rows import without_nodes
from tests.local_grid import LocalGrid
from tests.states import lora_state
from tests.strategies.conformance import equal, initial, run, train
from tests.strategies.pure_runs import START, starts

BASE = {"dynamic": "base", "topology_options": {"peers": 2}}


def held_after(strategy, grid, rounds):
    strategy.start(grid, ArrayRecord(START), num_rounds=rounds)
    return torch.stack([state["x"] for state in strategy.collect(grid).values()]).numpy()


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("evaluate_every", [0, 1, 2])
def test_pure_mixing_is_the_product_of_all_matrices(n, evaluate_every):
    rounds, steps = 3, 4
    options = {"topology": "complete", "seed": 4, "dynamic": "edge-activation"}
    expected, network = starts(n), build_time_varying_network(n=n, **options)
    for turn in range(1, rounds * steps + 1):
        expected = network.of_round(turn) @ expected
    strategy = DLoRA(**options, mixing_steps=steps, evaluate_every=evaluate_every)
    held = held_after(strategy, LocalGrid(app, n), rounds)
    np.testing.assert_allclose(held, expected, atol=1e-13)


@pytest.mark.parametrize("n", range(1, 11))
def test_one_period_of_base_gives_all_nodes_the_average(n):
    strategy = DLoRA(**BASE, mixing_steps="period")
    held = held_after(strategy, LocalGrid(app, n), rounds=1)
    np.testing.assert_allclose(held, np.tile(starts(n).mean(axis=0), (n, 1)), atol=1e-12)


def test_the_period_of_a_constant_graph_is_one():
    held = held_after(DLoRA("ring", mixing_steps="period"), LocalGrid(app, 5), rounds=2)
    w = build_mixing_matrix("ring", 5)
    np.testing.assert_allclose(held, w @ w @ starts(5), atol=1e-14)


def failing(n, plan, app=app):
    """A grid on which nodes fail in some exchanges: plan is turn -> nodes."""
    grid, turn = LocalGrid(app, n), 0
    send = grid.send_and_receive

    def send_and_receive(messages, *, timeout=None):
        nonlocal turn
        messages = list(messages)
        if len(messages) > 2 and any("decaf.mail" in m.content for m in messages):  # no retries
            turn += 1
        grid.broken = plan.get(turn, set())
        return send(messages, timeout=timeout)

    grid.send_and_receive = send_and_receive
    return grid


def test_a_node_missing_in_a_step_keeps_every_matrix_doubly_stochastic_and_comes_back():
    n, w = 5, build_mixing_matrix("ring", 5)
    failures = []
    strategy = DLoRA(
        "ring", mixing_steps=3, evaluate_every=0, on_failure=lambda *what: failures.append(what)
    )
    held = held_after(strategy, failing(n, {2: {2}}), rounds=2)
    left = without_nodes(w, {2})
    # Node 2 misses steps 2 and 3 of round 1, and takes the mail of step 1 when it trains again.
    expected = w @ w @ w @ left @ left @ w @ starts(n)
    np.testing.assert_allclose(held, expected, atol=1e-14)
    np.testing.assert_allclose(held.mean(axis=0), starts(n).mean(axis=0))
    assert [what[:2] for what in failures] == [(1, 2)]


def test_too_many_failures_in_a_step_stop_the_run():
    strategy = DLoRA("ring", mixing_steps=2, max_failures=1)
    with pytest.raises(RuntimeError, match="round 1: 2 of 4 nodes failed, more than the 1"):
        strategy.start(failing(4, {2: {1, 3}}), ArrayRecord(START), num_rounds=1)


def test_a_retry_within_a_step_rounds_the_post_to_the_same_bits():
    whole = held_after(DLoRA("ring", mixing_steps=3, posts="int8"), LocalGrid(app, 4), rounds=2)
    grid = LocalGrid(app, 4)
    call, tries = grid.call, [0]

    def fail_once(message):
        ask = message.content.get("decaf.call", {}).get("ask")
        tries[0] += ask == "mix" and grid.place_of(message) == 1
        grid.broken = {1} if tries[0] in (1, 3) else set()
        return call(message)

    grid.call = fail_once
    held = held_after(DLoRA("ring", mixing_steps=3, posts="int8"), grid, rounds=2)
    assert tries[0] > 4
    assert np.array_equal(whole, held)


def test_bytes_neighbours_and_seconds_are_sums_over_the_steps():
    lines = []
    ring = ClientApp(mods=[peer_mixing])
    ring.train()(train)
    strategy = DLoRA(
        "ring",
        mixing_steps=3,
        evaluate_every=0,
        train_metrics_aggr_fn=lambda contents, key: lines.append(list(map(metrics_of, contents))),
    )
    strategy.start(LocalGrid(ring, 4), ArrayRecord(lora_state(0)), num_rounds=2)
    for first, second in zip(*lines, strict=True):
        assert first["bytes-sent"] == second["bytes-sent"] == 3 * 2 * size_in_bytes(lora_state(0))
        # Round 1 mixes twice before its last post, which is mixed by the training of round 2.
        assert (first["mixing-neighbours"], second["mixing-neighbours"]) == (4, 6)
        assert 0 < first["mixing-seconds"] < second["mixing-seconds"] * 50


def test_each_exchange_rounds_anew():
    grid = LocalGrid(app, 2)
    strategy = DLoRA("ring", mixing_steps=2, posts="int8", evaluate_every=0)
    held_after(strategy, grid, rounds=2)
    seeds = [c["decaf.mail"]["rounding"] for c in grid.mail_to(1) if "decaf.mail" in c]
    assert seeds[:4] == [derive_seed(0, "rounding", turn, 1) for turn in (1, 2, 3, 4)]


def test_every_exchange_of_a_byzantine_node_is_forged():
    grid = LocalGrid(app, 4)
    strategy = DLoRA("complete", mixing_steps=3, sign_flipping=1, evaluate_every=0)
    held_after(strategy, grid, rounds=1)
    (byzantine,) = byzantine_among(4, 1, seed=0)
    honest = next(node for node in range(4) if node != byzantine)
    held = starts(4)[byzantine]
    seen = []
    for content in grid.mail_to(honest):
        if "decaf.posts" in content:
            seen.append(unpack(content["decaf.posts"][str(byzantine)])["x"].numpy())
    assert len(seen) == 3
    np.testing.assert_allclose(seen[0], -held)
    # It mixes what the others posted: its own model is not forged to itself.
    after = (starts(4)).mean(axis=0)
    np.testing.assert_allclose(seen[1], -after, atol=1e-12)


def test_nodes_that_are_away_are_not_called():
    grid = LocalGrid(app, 4)
    strategy = DLoRA("ring", mixing_steps=2, participation=[[0, 1, 2], [0, 1, 2, 3]])
    held_after(strategy, grid, rounds=1)
    calls = [(m.content.get("decaf.call", {}).get("ask"), grid.place_of(m)) for m in grid.sent]
    assert [place for ask, place in calls if ask == "mix"] == [0, 1, 2]


def test_a_node_that_loses_its_model_in_a_step_gets_it_back():
    whole = run("decaf", dtype="int8", options={"topology": "ring", "mixing_steps": 3})[1]
    losing_app = ClientApp(mods=[peer_mixing])
    losing_app.train()(train)
    grid = LocalGrid(losing_app, 4)
    call, asked = grid.call, [0]

    def lose(message):
        ask = message.content.get("decaf.call", {}).get("ask")
        asked[0] += ask == "mix"
        if asked[0] == 3:
            asked[0] += 1
            grid.contexts[message.metadata.dst_node_id].state.clear()
        return call(message)

    grid.call = lose
    held = run(
        "decaf",
        dtype="int8",
        evaluate_every=0,
        grid=grid,
        options={"topology": "ring", "mixing_steps": 3},
    )[1]
    assert asked[0] > 10
    assert all(equal(whole[node], held[node]) for node in whole)


def test_tad_lora_counts_its_phases_in_rounds():
    strategy = TADLoRA("ring", mixing_steps=3)
    strategy.network_on(64)
    once = TADLoRA("ring")
    once.network_on(64)
    lengths = [
        [one.schedule(t).trained for t in range(1, 40)].index("B") for one in (once, strategy)
    ]
    # lambda2 = 0.99679: 1 / sqrt(1 - lambda2^2) = 12.5, 1 / sqrt(1 - lambda2^6) = 7.24
    assert lengths == [12, 7]


def test_quantized_posts_are_counted_in_every_step():
    result, _, _ = run("dlora", dtype="int8", options={"topology": "ring", "mixing_steps": 3})
    size = len(pack(quantize(initial(), "int8", seed=0)).data)
    # The division of the mean over the nodes may round.
    assert result.train_metrics_clientapp[1]["bytes-sent"] == pytest.approx(3 * 2 * size)


@pytest.mark.parametrize("steps", [0, -1, "often", 1.5, True])
def test_invalid_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match="mixing_steps must be"):
        DLoRA("ring", mixing_steps=steps)


def test_a_period_is_refused_where_graphs_do_not_repeat():
    strategy = DLoRA("complete", dynamic="edge-activation", mixing_steps="period")
    with pytest.raises(ValueError, match="mixing-steps must be a number if the graphs are drawn"):
        strategy.start(LocalGrid(app, 3), ArrayRecord(START), num_rounds=1)
