"""DeCAF on nodes of different ranks."""

from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.lora import State
from flwr_decaf.strategies import DeCAF
from tests.local_grid import LocalGrid
from tests.states import dense_products, lora_state
from tests.strategies.conformance import equal, evaluate, train

RANKS = [3, 1, 2]


def run(n=3, rounds=1, seen=None, initial=None, on_failure=print, trainer=train, **options):
    def trained(msg, context):
        place = int(context.node_config["partition-id"])
        if seen is not None:
            state: State = msg.content["arrays"].to_torch_state_dict()
            seen.setdefault(place, []).append(len(state["model.q.lora_A.weight"]))
        return trainer(msg, context)

    app = ClientApp(mods=[peer_mixing])
    app.train()(trained)
    app.evaluate()(evaluate)
    grid = LocalGrid(app, n)
    strategy = DeCAF(**{"topology": "complete", "ranks": RANKS, **options}, on_failure=on_failure)
    result = strategy.start(grid, ArrayRecord(initial or lora_state(0)), num_rounds=rounds)
    return strategy.collect(grid), result


def test_every_node_trains_and_keeps_its_own_rank():
    seen = {}
    held, result = run(n=4, rounds=2, seen=seen)
    assert seen == {0: [3, 3], 1: [1, 1], 2: [2, 2], 3: [3, 3]}
    assert [len(held[i]["model.up.lora_A.weight"]) for i in range(4)] == [3, 1, 2, 3]
    assert result.arrays.to_torch_state_dict()["model.q.lora_A.weight"].shape == (3, 9)


def test_on_the_complete_graph_all_nodes_hold_truncations_of_one_product():
    held, _ = run()
    products = {node: dense_products(state) for node, state in held.items()}
    for layer, p in products[0].items():  # of the largest rank
        u, s, vh = torch.linalg.svd(p)
        for node, rank in enumerate(RANKS):
            best = u[:, :rank] * s[:rank] @ vh[:rank]
            torch.testing.assert_close(products[node][layer], best)


def test_equal_ranks_are_those_of_the_initial_arrays_bit_for_bit():
    (plain, _), (ranked, _) = run(rounds=3, ranks=[]), run(rounds=3, ranks=[3])
    assert all(equal(plain[node], ranked[node]) for node in plain)


@pytest.mark.parametrize(
    "options",
    [
        {"robust": "clipping"},
        {"robust": "trimmed-mean"},
        {"dynamic": "base", "mixing_steps": "period", "posts": "int8"},
        {"weighted_mixing": True, "posts": "bf16"},
        {"weights": "metropolis-examples", "local_head": True},
    ],
    ids=str,
)
def test_other_options_work_with_ranks_that_differ(options):
    failed = []
    held, _ = run(n=5, rounds=2, on_failure=lambda *what: failed.append(what), **options)
    alone, _ = run(n=5, rounds=2, topology="isolated")
    assert failed == []
    for node, state in held.items():
        assert all(torch.isfinite(x).all() for x in state.values())
        assert state["model.q.lora_A.weight"].shape == (RANKS[node % 3], 9)
        assert not equal(state, alone[node])


def test_a_node_that_changes_its_rank_counts_as_missing():
    failed = []

    def train_wider(msg, context):
        reply = train(msg, context)
        if int(context.node_config["partition-id"]) == 1:
            reply.content["arrays"] = ArrayRecord(lora_state(0, rank=2))
        return reply

    with pytest.raises(RuntimeError, match=r"node 1 has a different model .*must be \(1, 9\)"):
        run(on_failure=lambda *what: failed.append(what), trainer=train_wider)


@pytest.mark.parametrize("rank", [0, -1, 2.0, True, "2"])
def test_ranks_are_whole_numbers(rank):
    with pytest.raises(ValueError, match="ranks must be whole numbers >= 1; got"):
        DeCAF(ranks=[2, rank])


def test_no_rank_exceeds_that_of_the_initial_arrays():
    with pytest.raises(ValueError, match="ranks must be at most .* initial arrays, 3; got 4"):
        run(ranks=[4, 2])
