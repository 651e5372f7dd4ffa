"""What every decentralized strategy must satisfy. A new one needs one row in CASES."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing, peer_mixing_with
from flwr_decaf.config import Membership, Posts
from flwr_decaf.lora import factor_of, select
from flwr_decaf.messages.packing import pack
from flwr_decaf.messages.quantization import quantize
from flwr_decaf.rules.tracking import split, with_tracking
from flwr_decaf.strategies import STRATEGIES, DecentralizedStrategy
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from flwr_decaf.topology.participation import draw_evaluated
from tests.keys import keyed_grid, models_of
from tests.local_grid import LocalGrid
from tests.states import SHAPES, dense_products, lora_state

# strategy -> its graph's options, and the bytes of an edge: (A and B, only B, none) of the LoRA
CASES = {
    "decaf": ({"topology": "ring"}, "AB"),
    "dlora": ({"topology": "ring"}, "AB"),
    "dlora-fa": ({"topology": "ring"}, "B"),
    "dec-lora": ({"topology": "ring"}, "AB"),
    "tad-lora": ({"topology": "ring", "phase_length": 2}, "AB"),
    "dimat": ({"topology": "ring"}, "AB"),
    "relay-sum": ({"topology": "star"}, "AB"),
    "gradient-tracking": ({"topology": "ring"}, "AB"),
    "local-only": ({}, ""),
    "rolora": ({"topology": "ring", "phase_length": 1, "mixes": "active"}, "AB"),
    "conlora": ({"topology": "ring", "local_head": True}, "B"),
    "mixed-ranks": ({"topology": "ring", "ranks": [3, 1, 2]}, "AB"),
    "truncated": ({"topology": "ring", "energy": 0.9}, "AB"),
}
# Mean degree, where it is not a ring's: the hub of the star has 3 neighbours, and node i counts
# 10 + i times.
DEGREES = {"local-only": 0, "relay-sum": (3 * 10 + 11 + 12 + 13) / 46}
# Where nodes post more than their models: once more for each tensor that is tracked.
POSTED_TIMES = {"gradient-tracking": 2}
KINDS = {**STRATEGIES} | {
    "rolora": STRATEGIES["tad-lora"],
    "conlora": STRATEGIES["dlora-fa"],
    "mixed-ranks": STRATEGIES["decaf"],
    "truncated": STRATEGIES["decaf"],
}
WEIGHTS = [10, 11, 12, 13]  # numbers of examples, by which metrics are averaged


class InOrder:
    """Models whose units correspond as they are; what matching does has tests of its own."""

    def align(self, states):
        return list(states)

    def settle(self, state):
        return state


MODS = {"dimat": peer_mixing_with(lambda msg, context: InOrder())}


def train(msg, context):
    """Move each trainable tensor by an amount that depends on the node and the round."""
    config = msg.content["config"]
    place = int(context.node_config["partition-id"])
    state = msg.content["arrays"].to_torch_state_dict()
    for name, x in state.items():
        if (factor_of(name) or "A") in config["trainable-factors"] or factor_of(name) is None:
            state[name] = x + 0.1 * (place + 1) * torch.sin(x + config["server-round"])
    metrics = MetricRecord({"num-examples": 10 + place})
    return Message(RecordDict({"arrays": ArrayRecord(state), "metrics": metrics}), reply_to=msg)


def evaluate(msg, context):
    total = sum(float(x.sum()) for x in msg.content["arrays"].to_torch_state_dict().values())
    return Message(
        RecordDict({"metrics": MetricRecord({"num-examples": 1, "total": total})}), reply_to=msg
    )


def run(
    name,
    n=4,
    rounds=3,
    evaluate_every=1,
    grid=None,
    on_round=lambda _: None,
    resume_from=None,
    fraction=1.0,
    dtype="fp32",
    options=None,
    **start,
):
    app = ClientApp(mods=[MODS.get(name, peer_mixing)])
    app.train()(train)
    app.evaluate()(evaluate)
    grid = grid or LocalGrid(app, n)
    strategy = KINDS[name](
        **{**CASES[name][0], "posts": dtype, **(options or {})},
        evaluate_every=evaluate_every,
        evaluate_fraction=fraction,
        on_round=on_round,
        resume_from=resume_from,
    )
    result = strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=rounds, **start)
    return result, strategy.collect(grid), grid


@cache
def plain(name, rounds=3, n=4, dtype="fp32"):
    """Run a strategy once for all tests that only read what comes out, and its checkpoints."""
    kept = {}
    keep = lambda reached: kept.update({reached.server_round: reached})  # noqa: E731
    return *run(name, rounds=rounds, n=n, dtype=dtype, on_round=keep), kept


def stopped_after(name, stop, dtype="fp32"):
    """Return the last checkpoint of a run of `stop` rounds; that of one round is from a longer."""
    if stop == 1:
        return plain(name, 4, dtype=dtype)[3][1]
    return plain(name, stop, dtype=dtype)[3][stop]


def first_ranks(name, node):
    """Return the rank of each layer in a node's first post."""
    options, _ = CASES[name]
    ranks = options.get("ranks", [3])
    if "energy" not in options:
        return dict.fromkeys(SHAPES, ranks[node % len(ranks)])
    trained = {k: x + 0.1 * (node + 1) * torch.sin(x + 1) for k, x in lora_state(0).items()}
    energy = {
        layer: np.linalg.svd(p.numpy(), compute_uv=False) ** 2
        for layer, p in dense_products(trained).items()
    }
    return {
        layer.removeprefix("model."): int((s.cumsum() < options["energy"] * s.sum()).sum()) + 1
        for layer, s in energy.items()
    }


def with_ranks(state, ranks):
    """Cut the factors of each layer to its rank."""
    rank_of = {name: ranks[name.split(".")[1]] for name in state if factor_of(name)}
    cut = {"A": lambda x, rank: x[:rank], "B": lambda x, rank: x[:, :rank]}
    return state | {name: cut[factor_of(name)](state[name], rank_of[name]) for name in rank_of}


def evaluated_nodes(grid):
    """Tell which nodes were asked to evaluate in each round."""
    asked, when, before = {}, 0, "evaluate"
    for message in grid.sent:  # Flower's FedAvg writes the last round into all its messages
        kind = message.metadata.message_type
        if "config" not in message.content:  # the roll call
            continue
        when += (before, kind) == ("evaluate", "train")
        before = kind
        if kind == "evaluate":
            asked.setdefault(when, set()).add(grid.place_of(message))
    return asked


def reported(record):
    return {key: value for key, value in record.items() if not key.endswith("-seconds")}


def equal(first, second):
    return all(torch.equal(x, second[name]) for name, x in first.items())


def test_every_decentralized_strategy_has_a_row():
    assert set(CASES) == {
        name for name, kind in KINDS.items() if issubclass(kind, DecentralizedStrategy)
    }


@pytest.mark.parametrize("name", CASES)
class TestEveryStrategy:
    def test_evaluating_does_not_change_what_nodes_hold(self, name):
        held = plain(name)[1]
        for options in ({"evaluate_every": 2}, {"evaluate_every": 0}, {"fraction": 0.5}):
            other = run(name, **options)[1]
            assert all(equal(held[node], other[node]) for node in held)

    def test_a_share_of_the_nodes_is_evaluated_and_all_in_the_last_round(self, name):
        drawn = evaluated_nodes(run(name, rounds=5, fraction=0.5)[2])
        share = {t: set(draw_evaluated(t, range(4), 0.5, 5, 0)) for t in range(1, 5)}
        assert {len(nodes) for nodes in share.values()} == {2}
        assert {t: drawn[t] for t in range(1, 6)} == share | {5: {0, 1, 2, 3}}

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_small_networks(self, name, n):
        result, held, *_ = plain(name, n=n)
        assert sorted(held) == list(range(n))
        assert all(torch.isfinite(x).all() for state in held.values() for x in state.values())
        assert list(result.arrays) == list(lora_state(0))

    def test_bytes_are_degree_times_what_travels(self, name):  # invariant 11
        result, *_ = plain(name)
        factors, degree = CASES[name][1], DEGREES.get(name, 2)
        width, head = 8, 4 * 6

        def size_of_post(node):
            sides = {"AB": sum, "B": lambda shape: shape[0], "": lambda shape: 0}[factors]
            ranks = first_ranks(name, node)
            return sum(ranks[layer] * sides(shape) for layer, shape in SHAPES.items()) + head

        size = np.average([size_of_post(node) for node in range(4)], weights=WEIGHTS)
        expected = degree * size * width * POSTED_TIMES.get(name, 1)
        assert result.train_metrics_clientapp[1]["bytes-sent"] == pytest.approx(expected)

    def test_the_result_is_the_average_model_and_no_node_gets_it(self, name):
        seen = {}
        result, _, grid = run(
            name, evaluate_fn=lambda t, arrays: seen.update({t: arrays}) or MetricRecord({"t": t})
        )
        assert sorted(seen) == [0, 1, 2, 3]
        assert equal(seen[3].to_torch_state_dict(), result.arrays.to_torch_state_dict())
        with_arrays = [m.content for m in grid.sent if "arrays" in m.content]
        assert len(with_arrays) == 4  # the initial ones, once a node

    @pytest.mark.parametrize("stop", [1, 3, 4])
    def test_a_resumed_run_gives_the_result_of_an_uninterrupted_one(self, name, stop):
        once, whole, _, kept = plain(name, 4)
        assert sorted(kept) == [1, 2, 3, 4]
        again, resumed, grid = run(name, rounds=4, resume_from=stopped_after(name, stop))
        assert all(equal(whole[node], resumed[node]) for node in whole)
        for metrics in ("train_metrics_clientapp", "evaluate_metrics_clientapp"):
            for t, record in getattr(again, metrics).items():
                assert reported(record) == reported(getattr(once, metrics)[t])
        rounds = [m.content["config"]["server-round"] for m in grid.sent if "config" in m.content]
        assert min(rounds) == min(stop + 1, 4)

    def test_resuming_evaluates_the_same_share(self, name):
        kept = {}
        keep = lambda reached: kept.update({reached.server_round: reached})  # noqa: E731
        once, whole, grid = run(name, rounds=4, fraction=0.5, on_round=keep)
        again, resumed, rest = run(name, rounds=4, fraction=0.5, resume_from=kept[1])
        assert all(equal(whole[node], resumed[node]) for node in whole)
        asked = evaluated_nodes(grid)
        assert list(evaluated_nodes(rest).values()) == [asked[t] for t in range(2, 5)]
        for t, record in again.evaluate_metrics_clientapp.items():
            assert reported(record) == reported(once.evaluate_metrics_clientapp[t])

    def test_two_runs_on_the_same_nodes_do_not_leak(self, name):
        _, first, grid = run(name)
        _, second, _ = run(name, grid=grid)
        assert all(equal(first[node], second[node]) for node in first)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("name", [name for name in CASES if name != "relay-sum"])  # it refuses
class TestEveryStrategyWithQuantizedPosts:
    def test_evaluating_does_not_change_what_nodes_hold(self, name, dtype):
        held, other = plain(name, dtype=dtype)[1], run(name, evaluate_every=2, dtype=dtype)[1]
        assert all(equal(held[node], other[node]) for node in held)

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_nodes_hold_nearly_the_same_as_with_exact_posts(self, name, n, dtype):
        _, exact, *_ = plain(name, n=n)
        result, held, *_ = plain(name, n=n, dtype=dtype)
        assert list(result.arrays) == list(lora_state(0))
        for node, state in held.items():
            for key, x in dense_products(state).items():
                torch.testing.assert_close(x, dense_products(exact[node])[key], atol=0.3, rtol=0)
            changed = name != "local-only" and n > 1
            assert equal(state, exact[node]) != changed

    @pytest.mark.parametrize("stop", [1, 3, 4])
    def test_a_resumed_run_gives_the_result_of_an_uninterrupted_one(self, name, stop, dtype):
        once, whole, *_ = plain(name, 4, dtype=dtype)
        reached = stopped_after(name, stop, dtype)
        again, resumed, _ = run(name, rounds=4, resume_from=reached, dtype=dtype)
        assert all(equal(whole[node], resumed[node]) for node in whole)
        for metrics in ("train_metrics_clientapp", "evaluate_metrics_clientapp"):
            for t, record in getattr(again, metrics).items():
                assert reported(record) == reported(getattr(once, metrics)[t])
        arrays = [ran.arrays.to_torch_state_dict() for ran in (once, again)]
        assert equal(*arrays)

    def test_bytes_are_what_travels(self, name, dtype):
        result, *_ = plain(name, dtype=dtype)
        factors, degree = CASES[name][1], DEGREES.get(name, 2)
        sizes = []
        for ranks in (first_ranks(name, node) for node in range(4)):
            state = with_ranks(lora_state(0), ranks)
            posted = quantize(select(state, factors or "AB"), dtype, seed=0)
            if name in POSTED_TIMES:
                posted = quantize(split(with_tracking(state))[0], dtype, seed=0)
            a, b = (sum(ranks[x] * SHAPES[x][side] for x in SHAPES) for side in (1, 0))
            values = {"AB": a + b, "B": b, "": a + b}[factors] + 24
            rank = sum(ranks.values())
            rows = {"AB": 2 * rank, "B": rank, "": 2 * rank}[factors] + 4
            size = 2 * values if dtype == "bf16" else values + 4 * rows
            size *= POSTED_TIMES.get(name, 1)
            header = len(pack(posted).data) - size
            assert 0 < header < 3000
            sizes.append(degree * (size + header))
        sent = result.train_metrics_clientapp[1]["bytes-sent"]
        assert sent == pytest.approx(np.average(sizes, weights=WEIGHTS))


@pytest.mark.parametrize("name", [name for name in CASES if name != "relay-sum"])  # it refuses
class TestEveryStrategyWithEncryptedPosts:
    @pytest.mark.parametrize("n", [1, 4])
    def test_nodes_hold_what_readable_posts_give_them(self, name, n, tmp_path):
        app = ClientApp(mods=[MODS.get(name, peer_mixing)])
        app.train()(train)
        app.evaluate()(evaluate)
        grid = keyed_grid(app, tmp_path / "keys", n)
        result, states, _ = run(name, grid=grid, options={"posts": Posts(encryption="x25519")})
        assert not states
        assert not result.arrays
        _, expected, _ = run(name, n=n)
        assert all(equal(expected[node], state) for node, state in models_of(grid).items())


IN_ROUNDS = {"tad-lora", "rolora", "relay-sum", "gradient-tracking"}  # their rounds are common


@pytest.mark.parametrize("name", [name for name in CASES if name not in IN_ROUNDS])
class TestEveryStrategyWithAsynchronousRounds:
    @pytest.mark.parametrize("dtype", ["fp32", "int8"])
    def test_equally_fast_nodes_hold_what_synchronous_rounds_give_them(self, name, dtype):
        once, expected, *_ = plain(name, dtype=dtype)
        again, held, _ = run(name, dtype=dtype, options={"rounds": "asynchronous"})
        assert all(equal(expected[node], state) for node, state in held.items())
        assert sorted(held) == sorted(expected)
        assert equal(*(ran.arrays.to_torch_state_dict() for ran in (once, again)))
        for metrics in ("train_metrics_clientapp", "evaluate_metrics_clientapp"):
            records = [
                {t: reported(record) for t, record in getattr(ran, metrics).items()}
                for ran in (once, again)
            ]
            assert records[0].keys() == records[1].keys()
            for t, record in records[0].items():
                also = {key: records[1][t][key] for key in record}
                assert also == pytest.approx(record, rel=1e-12)

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_a_slow_node_stops_earlier_and_takes_part_in_the_last_mix(self, name, n):
        app = ClientApp(mods=[MODS.get(name, peer_mixing)])
        app.train()(train)
        app.evaluate()(evaluate)
        grid = LocalGrid(app, n)
        grid.duration = lambda message: 5.0 if grid.place_of(message) == 0 else 1.0
        result, held, _ = run(name, n=n, rounds=6, grid=grid, options={"rounds": "asynchronous"})
        assert sorted(held) == list(range(n))
        assert all(torch.isfinite(x).all() for state in held.values() for x in state.values())
        assert sorted(result.train_metrics_clientapp) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", sorted(IN_ROUNDS))
def test_strategies_of_common_rounds_refuse_asynchronous_ones(name):
    with pytest.raises(ValueError, match="rounds.mode must be synchronous with"):
        run(name, options={"rounds": "asynchronous"})


CLOSED = {"relay-sum", "gradient-tracking", "mixed-ranks"}  # they need all nodes from the start


@pytest.mark.parametrize("name", [name for name in CASES if name not in CLOSED])
class TestEveryStrategyWithOpenMembership:
    def test_nodes_hold_what_a_closed_run_gives_them_while_none_comes_or_goes(self, name):
        _, expected, *_ = plain(name)
        _, held, _ = run(name, options={"membership": "open"})
        assert all(equal(expected[node], state) for node, state in held.items())
        assert sorted(held) == sorted(expected)

    @pytest.mark.parametrize("dtype", ["fp32", "int8"])
    def test_a_resumed_run_gives_the_result_of_one_in_which_nodes_came_and_went(self, name, dtype):
        app = ClientApp(mods=[MODS.get(name, peer_mixing)])
        app.train()(train)
        app.evaluate()(evaluate)
        options = {"membership": Membership("open", quorum=3, leave_after=1)}
        grid, kept = LocalGrid(app, 4), {}
        grid.away.add(0)

        def come_and_go(reached):
            kept[reached.server_round] = reached
            {1: lambda: grid.join(0), 2: lambda: grid.leave(2)}.get(reached.server_round, int)()

        given = {"dtype": dtype, "options": options, "rounds": 5}
        _, whole, _ = run(name, grid=grid, on_round=come_and_go, **given)
        assert sorted(whole) == [0, 1, 3]
        assert all(torch.isfinite(x).all() for state in whole.values() for x in state.values())
        again = LocalGrid(app, 4)
        again.away.add(2)
        _, resumed, _ = run(name, grid=again, resume_from=kept[3], **given)
        assert all(equal(whole[node], resumed[node]) for node in (0, 1, 3))


@pytest.mark.parametrize("name", sorted(CLOSED))
def test_strategies_that_need_all_nodes_from_the_start_refuse_open_membership(name):
    with pytest.raises(ValueError, match="topology.membership must be closed with"):
        run(name, options={"membership": "open"})


def test_a_frozen_a_stays_as_it_was():
    _, held, _ = run("dlora-fa")
    for state in held.values():
        assert equal({k: x for k, x in lora_state(0).items() if "lora_A" in k}, state)


def test_the_frozen_factor_changes_only_by_mixing():  # invariant 12
    _, held, _ = run("tad-lora", rounds=2)  # both rounds train A: B stays what all began with
    for state in held.values():
        for name, x in lora_state(0).items():
            still = torch.allclose(state[name], x)
            assert still == ("lora_B" in name)
    _, later, _ = run("tad-lora", rounds=3)  # the third trains B; A is mixed once more, no more
    w = build_mixing_matrix("ring", 4)
    for name in (name for name in lora_state(0) if "lora_A" in name):
        before = torch.stack([held[node][name] for node in range(4)])
        mixed = torch.einsum("ij,jab->iab", torch.from_numpy(w), before)
        for node in range(4):
            torch.testing.assert_close(later[node][name], mixed[node])


def test_rolora_mixes_the_factor_that_trained_and_leaves_the_other():
    _, held, _ = run("rolora")
    w = torch.from_numpy(build_mixing_matrix("ring", 4))
    for name, start in lora_state(0).items():
        xs = torch.stack([start] * 4)
        for t, trains in ((1, "A"), (2, "B"), (3, "A")):
            if (factor_of(name) or trains) == trains:  # the head always trains and is always mixed
                moves = [0.1 * (node + 1) * torch.sin(xs[node] + t) for node in range(4)]
                xs = torch.tensordot(w, xs + torch.stack(moves), dims=1)
        for node in range(4):
            torch.testing.assert_close(held[node][name], xs[node])


def test_a_local_head_trains_as_if_alone_and_does_not_affect_the_factors():
    _, held, _ = run("conlora")
    _, mixed, _ = run("dlora-fa")
    _, alone, _ = run("local-only")
    for node, state in held.items():
        for name, x in state.items():
            assert torch.equal(x, (mixed if factor_of(name) else alone)[node][name])
        assert not equal(state, mixed[node])


@pytest.mark.parametrize("name", ["dlora", "dimat"])
def test_a_local_head_is_refused_where_there_are_no_factors(name):
    app = ClientApp(mods=[MODS.get(name, peer_mixing)])
    app.train()(train)
    strategy = KINDS[name]("ring", local_head=True)
    with pytest.raises(ValueError, match="local_head must be False for arrays without LoRA"):
        strategy.start(LocalGrid(app, 3), ArrayRecord({"w": torch.zeros(2)}))


def test_dec_lora_weighs_by_the_laplacian():  # invariant 13
    strategy = STRATEGIES["dec-lora"]("ring")
    assert strategy.graph.weights == "laplacian"
    assert STRATEGIES["dec-lora"]("ring", weights="uniform").graph.weights == "uniform"


def test_nodes_of_local_only_train_as_in_a_network_of_one():
    _, held, _ = run("local-only", n=3)
    _, alone, _ = run("local-only", n=1)
    assert equal(held[0], alone[0])


def test_on_a_complete_graph_decaf_makes_all_products_equal():
    app = ClientApp(mods=[peer_mixing])
    app.train()(train)
    grid = LocalGrid(app, 4)
    strategy = STRATEGIES["decaf"](topology="complete", evaluate_every=0)
    strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=2)
    products = [dense_products(state) for state in strategy.collect(grid).values()]
    for other in products[1:]:
        for layer, product in other.items():
            np.testing.assert_allclose(product, products[0][layer], atol=1e-12)


@pytest.mark.parametrize(("broken", "tolerated"), [({1, 2, 3}, None), ({1}, 0), ({0, 1, 2, 3}, 4)])
def test_fedavg_stops_when_too_many_fail(broken, tolerated):
    app, reported = ClientApp(mods=[peer_mixing]), []
    app.train()(train)
    grid = LocalGrid(app, 4)
    grid.broken = broken
    strategy = STRATEGIES["fedavg"](
        evaluate_every=0,
        num_rounds=2,
        max_failures=tolerated,
        on_failure=lambda *what: reported.append(what),
    )
    both = ConfigRecord({"trainable-factors": "AB"})
    with pytest.raises(RuntimeError, match=rf"round 1: {len(broken)} of 4 nodes failed"):
        strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=2, train_config=both)
    assert len(reported) == len(broken)


def test_dimat_is_refused_before_training_if_clients_do_not_match_models():
    trained = []
    app = ClientApp(mods=[peer_mixing])
    app.train()(lambda msg, context: trained.append(msg))
    with pytest.raises(RuntimeError, match=r"strategy dimat needs clients that match"):
        STRATEGIES["dimat"]("ring").start(LocalGrid(app, 3), ArrayRecord(lora_state(0)))
    assert not trained


def test_fedavg_evaluates_the_share_that_peers_evaluate():
    app = ClientApp(mods=[peer_mixing])
    app.train()(train_told)
    app.evaluate()(evaluate)
    grid = LocalGrid(app, 4)
    both = ConfigRecord({"trainable-factors": "AB"})
    strategy = STRATEGIES["fedavg"](evaluate_every=1, evaluate_fraction=0.5, num_rounds=4, seed=0)
    strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=4, train_config=both)
    of_peers = evaluated_nodes(run("dlora", rounds=4, fraction=0.5)[2])
    assert evaluated_nodes(grid) == of_peers


@pytest.mark.parametrize("name", ["dlora", "fedavg"])
def test_a_node_that_failed_in_training_may_be_the_only_one_evaluated(name):
    app = ClientApp(mods=[peer_mixing])
    app.train()(train_told)
    app.evaluate()(evaluate)
    grid = LocalGrid(app, 4)
    (drawn,) = draw_evaluated(1, range(4), 0.25, 2, 0)
    places = dict(zip(grid.ids, range(4), strict=True))
    own = {"num_rounds": 2, "positions": places} if name == "fedavg" else {"topology": "ring"}
    strategy = STRATEGIES[name](evaluate_every=1, evaluate_fraction=0.25, max_failures=1, **own)
    configure = {kind: getattr(strategy, f"configure_{kind}") for kind in ("train", "evaluate")}

    def configure_and_break(kind, server_round, *rest):
        grid.broken = {drawn} if (kind, server_round) == ("train", 1) else set()
        return configure[kind](server_round, *rest)

    strategy.configure_train = partial(configure_and_break, "train")
    strategy.configure_evaluate = partial(configure_and_break, "evaluate")
    both = ConfigRecord({"trainable-factors": "AB"})
    result = strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=2, train_config=both)
    assert set(result.evaluate_metrics_clientapp) == {1, 2}


def test_centralized_calls_the_same_node_in_every_round():
    app = ClientApp(mods=[peer_mixing])
    app.train()(train_told)
    app.evaluate()(evaluate)
    grid = LocalGrid(app, 5)
    places = dict(zip(grid.ids, range(5), strict=True))
    strategy = STRATEGIES["centralized"](
        evaluate_every=1, evaluate_fraction=0.4, num_rounds=4, positions=places
    )
    both = ConfigRecord({"trainable-factors": "AB"})
    strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=4, train_config=both)
    assert [grid.place_of(message) for message in grid.sent] == [0] * 8


def train_told(msg, context):
    reply = train(msg, context)
    reply.content["metrics"]["partition-id"] = int(context.node_config["partition-id"])
    return reply


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_an_invalid_fraction_is_refused(fraction):
    with pytest.raises(ValueError, match=r"evaluate_fraction must be > 0 and <= 1; got"):
        STRATEGIES["decaf"]("ring", evaluate_fraction=fraction)


@pytest.mark.parametrize("absent", ["gone", "late"])
def test_fedavg_counts_nodes_that_do_not_reply(absent):
    app = ClientApp(mods=[peer_mixing])
    app.train()(train_told)
    app.evaluate()(evaluate)
    grid = LocalGrid(app, 5)
    if absent == "gone":
        grid.gone = {1, 2}  # the SuperLink replies for both under one foreign id
    else:
        grid.late = {1: 99, 2: 99}
    strategy = STRATEGIES["fedavg"](evaluate_every=1, num_rounds=2, max_failures=1)
    both = ConfigRecord({"trainable-factors": "AB"})
    with pytest.raises(RuntimeError, match="round 1: 2 of 5 nodes failed, more than the 1"):
        strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=2, train_config=both)


def test_fedavg_names_a_node_by_its_position_as_soon_as_it_is_known():
    reported, both = [], ConfigRecord({"trainable-factors": "AB"})
    app = ClientApp(mods=[peer_mixing])
    app.train()(train_told)
    for known in (False, True):
        grid = LocalGrid(app, 5)
        grid.broken = {3}
        strategy = STRATEGIES["fedavg"](
            evaluate_every=0,
            num_rounds=1,
            positions=dict(zip(grid.ids, range(5), strict=True)) if known else None,
            on_failure=lambda *what: reported.append(what[:2]),
        )
        strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=1, train_config=both)
    assert reported == [(1, grid.ids[3]), (1, 3)]


def test_fedavg_learns_positions_from_the_metrics_of_replies():
    reported, both = [], ConfigRecord({"trainable-factors": "AB"})
    app = ClientApp(mods=[peer_mixing])
    app.train()(train_told)
    grid = LocalGrid(app, 5)
    strategy = STRATEGIES["fedavg"](
        evaluate_every=0, num_rounds=2, on_failure=lambda *what: reported.append(what[:2])
    )
    configure = strategy.configure_train

    def configure_and_break(server_round, *rest):
        grid.broken = {3} if server_round == 2 else set()
        return configure(server_round, *rest)

    strategy.configure_train = configure_and_break
    strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=2, train_config=both)
    assert reported == [(2, 3)]


@pytest.mark.parametrize("length", [0, 2.5, True, "all"])
def test_an_invalid_phase_length_is_refused(length):
    with pytest.raises(ValueError, match="phase_length must be a whole number >= 1"):
        STRATEGIES["tad-lora"]("ring", phase_length=length)


def test_the_derived_phase_length_follows_the_network():
    strategy = STRATEGIES["tad-lora"]("ring")
    lengths = []
    for n in (4, 64):  # lambda2 = 1/3 and 0.9968: 1 / sqrt(1 - lambda2^2) = 1.06 and 12.5
        strategy.network_on(n)
        lengths.append([strategy.schedule(t).trained for t in range(1, 30)].index("B"))
    assert lengths == [1, 12]


class TestResumedFedAvg:
    def run(self, rounds, resume_from=None, **start):
        kept = {}
        app = ClientApp(mods=[peer_mixing])
        app.train()(train_told)
        app.evaluate()(evaluate)
        strategy = STRATEGIES["fedavg"](
            evaluate_every=1,
            num_rounds=rounds,
            resume_from=resume_from,
            on_round=lambda reached: kept.update({reached.server_round: reached}),
        )
        both = ConfigRecord({"trainable-factors": "AB"})
        arrays = ArrayRecord(lora_state(0))
        result = strategy.start(
            LocalGrid(app, 3), arrays, num_rounds=rounds, train_config=both, **start
        )
        return result, kept

    @pytest.mark.parametrize("stop", [1, 3, 4])
    def test_it_gives_the_result_of_an_uninterrupted_run_and_counts_its_rounds(self, stop):
        whole, kept = self.run(4)
        seen = []
        score = lambda t, arrays: seen.append(t) or MetricRecord({"t": t})  # noqa: E731
        again, rest = self.run(4, kept[stop], evaluate_fn=score)
        left = list(range(stop + 1, 5))
        assert equal(whole.arrays.to_torch_state_dict(), again.arrays.to_torch_state_dict())
        assert list(again.train_metrics_clientapp) == left
        assert list(again.evaluate_metrics_clientapp) == left
        assert seen == left == list(again.evaluate_metrics_serverapp)
        assert max(rest) == 4

    def test_fewer_rounds_than_are_done_are_refused_and_write_nothing(self):
        _, kept = self.run(3)
        with pytest.raises(ValueError, match="num_rounds must be at least .* 3; got 2; resume"):
            self.run(2, kept[3], evaluate_fn=lambda t, arrays: pytest.fail("it started"))
