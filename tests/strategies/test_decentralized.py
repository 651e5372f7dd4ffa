from __future__ import annotations

import random

import networkx as nx
import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.messages import records
from flwr_decaf.messages.packing import pack_record, unpack_record
from flwr_decaf.strategies import DeCAF, DLoRA
from flwr_decaf.strategies.relay.attacks import byzantine_among
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from flwr_decaf.topology.network import build_time_varying_network
from tests.apps.pure_mixing import (
    app,
    evaluate_held_value,
    make_app,
    start_value,
    train_identity,
)
from tests.dense_rows import without_nodes
from tests.local_grid import LocalGrid

START = {"x": torch.zeros(2, dtype=torch.float64)}


def held_after(strategy, n, rounds, grid=None, **options):
    grid = grid or LocalGrid(app, n)
    strategy.start(grid, ArrayRecord(START), num_rounds=rounds, **options)
    return torch.stack([state["x"] for state in strategy.collect(grid).values()]).numpy()


def starts(n):
    return np.stack([start_value(place).numpy() for place in range(n)])


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("topology", ["ring", "complete", "star"])
def test_pure_mixing_is_a_power_of_w(topology, n):  # invariant 9
    w = build_mixing_matrix(topology, n)
    held = held_after(DLoRA(topology), n, rounds=4)
    np.testing.assert_allclose(held, np.linalg.matrix_power(w, 4) @ starts(n), atol=1e-14)


def test_graphs_and_matrices_of_your_own():
    for network in (nx.path_graph(3), build_mixing_matrix("path", 3)):
        held = held_after(DLoRA(network), 3, rounds=1)
        np.testing.assert_allclose(held, build_mixing_matrix("path", 3) @ starts(3), atol=1e-14)


def test_a_node_that_fails_for_a_round_keeps_w_doubly_stochastic_and_comes_back():
    n, w = 5, build_mixing_matrix("ring", 5)
    grid = LocalGrid(app, n)
    strategy = DLoRA("ring", evaluate_every=0)
    plan = {3: {2}}  # in round 3, node 2 fails
    configure = strategy.configure_train

    def configure_and_break(server_round, *rest):
        grid.broken = plan.get(server_round, set())
        return configure(server_round, *rest)

    strategy.configure_train = configure_and_break
    held = held_after(strategy, n, rounds=4, grid=grid)
    # Node 2 takes its mail of round 2 when it is back, in round 4.
    expected = w @ without_nodes(w, {2}) @ w @ w @ starts(n)
    np.testing.assert_allclose(held, expected, atol=1e-14)
    np.testing.assert_allclose(held.mean(axis=0), starts(n).mean(axis=0))


def test_a_node_that_is_gone_is_not_named_by_the_superlink(caplog):
    grid = LocalGrid(app, 3)
    strategy = DLoRA("ring", evaluate_every=0)
    configure = strategy.configure_train

    def configure_and_lose(server_round, *rest):
        grid.gone = {1} if server_round == 2 else set()
        return configure(server_round, *rest)

    strategy.configure_train = configure_and_lose
    held = held_after(strategy, 3, rounds=3, grid=grid)
    np.testing.assert_allclose(held.mean(axis=0), starts(3).mean(axis=0))
    assert "Round 2: node 1 failed: node unavailable" in caplog.text


@pytest.mark.parametrize("dynamic", ["edge-activation", "random-matching", "token-walk"])
def test_graphs_that_change_mix_by_the_matrix_of_each_round(dynamic):
    n, rounds = 6, 5
    network = build_time_varying_network("complete", n, seed=4, dynamic=dynamic)
    expected = starts(n)
    for t in range(1, rounds + 1):
        expected = network.of_round(t) @ expected
    strategy = DLoRA("complete", seed=4, dynamic=dynamic, evaluate_every=2)
    np.testing.assert_allclose(held_after(strategy, n, rounds), expected, atol=1e-14)


def test_bytes_are_counted_from_the_edges_of_the_round():
    sent = []
    strategy = DLoRA(
        "complete",
        dynamic="token-walk",
        train_metrics_aggr_fn=lambda contents, key: (
            sent.append([next(iter(c.metric_records.values()))["bytes-sent"] for c in contents])
            or MetricRecord()
        ),
    )
    held_after(strategy, 4, rounds=3)
    assert [sorted(row) for row in sent] == [[0, 0, 16, 16]] * 3  # one edge, two fp64 values


def test_a_node_that_misses_its_start_gets_it_later():
    grid = LocalGrid(app, 3)
    strategy = DLoRA("complete", evaluate_every=0)
    configure = strategy.configure_train

    def configure_and_break(server_round, *rest):
        grid.broken = {0} if server_round == 1 else set()
        return configure(server_round, *rest)

    strategy.configure_train = configure_and_break
    held = held_after(strategy, 3, rounds=2, grid=grid)
    first = starts(3)
    pair = first[1:].mean(axis=0)  # round 1: two thirds and one third, then all three mix
    mixed = [2 / 3 * first[1] + 1 / 3 * first[2], 2 / 3 * first[2] + 1 / 3 * first[1]]
    assert np.allclose(sum(mixed) / 2, pair)
    np.testing.assert_allclose(held, np.tile(sum(mixed) / 3, (3, 1)), atol=1e-14)


def test_too_many_failures_stop_the_run_with_the_first_cause():
    grid = LocalGrid(app, 4)
    strategy = DLoRA("ring", max_failures=1)
    roll = strategy.configure_train

    def configure_and_break(*arguments):
        grid.broken = {1, 3}
        return roll(*arguments)

    strategy.configure_train = configure_and_break
    with pytest.raises(
        RuntimeError, match=r"round 1: 2 of 4 nodes failed.*node 1: RuntimeError: broken on p"
    ):
        held_after(strategy, 4, rounds=2, grid=grid)


def test_what_the_rule_cannot_mix_is_refused_before_the_first_round():
    grid = LocalGrid(app, 3)
    with pytest.raises(ValueError, match="use DLoRA"):
        DeCAF("ring").start(grid, ArrayRecord(START), num_rounds=1)
    with pytest.raises(ValueError, match="must be for n=3 nodes, 0 to n-1; got one for 4"):
        DLoRA(nx.path_graph(4)).start(grid, ArrayRecord(START), num_rounds=1)


def test_mail_is_delivered_once_and_with_the_next_message_of_any_kind():
    grid = LocalGrid(app, 3)
    held_after(DLoRA("ring", evaluate_every=2), 3, rounds=3, grid=grid)
    with_posts = ["decaf.posts" in content for content in grid.mail_to(0) if "config" in content]
    # train 1, train 2 (mail of 1), evaluate 2 (of 2), train 3, evaluate 3, collect
    assert with_posts == [False, True, True, False, True, False]


def test_configuration_of_the_user_reaches_the_nodes():
    grid = LocalGrid(app, 2)
    held_after(DLoRA("ring"), 2, rounds=1, grid=grid, train_config=ConfigRecord({"lr": 0.1}))
    sent = next(content["config"] for content in grid.mail_to(0) if "config" in content)
    assert (sent["lr"], sent["server-round"], sent["trainable-factors"]) == (0.1, 1, "AB")


def test_a_topology_without_a_family_is_refused_at_once():
    with pytest.raises(ValueError, match=r"topology.name must be one of complete.*got 'rnig'"):
        DLoRA("rnig")


def test_metrics_say_how_far_apart_the_nodes_are():
    grid = LocalGrid(make_app(peer_mixing), 2)
    seen = []

    def record(contents, key):
        seen.extend(next(iter(c.metric_records.values()))["distance-to-mean"] for c in contents)
        return MetricRecord()

    held_after(DLoRA("ring", train_metrics_aggr_fn=record), 2, rounds=2, grid=grid)
    distance = float(np.linalg.norm(starts(2)[0] - starts(2)[1]) / 2)
    assert seen == pytest.approx([distance, distance, 0.0, 0.0], abs=1e-7)


@pytest.mark.parametrize("every", [0, 2])
def test_distances_and_interference_are_not_measured_where_nothing_is_evaluated(every):
    reported = []

    def record(contents, key):
        reported.extend(set(next(iter(c.metric_records.values()))) for c in contents)
        return MetricRecord()

    strategy = DLoRA("ring", evaluate_every=every, train_metrics_aggr_fn=record)
    held_after(strategy, 3, rounds=3, grid=LocalGrid(make_app(peer_mixing), 3))
    assert len(reported) == 9
    assert all({"bytes-sent", "mixing-seconds"} <= names for names in reported)
    measured = {"distance-to-mean", "mixing-interference"}
    assert all(names & measured == (measured if every else set()) for names in reported)


def forget(grid, place):
    """What the restart of a SuperNode does: its Context is new."""
    grid.contexts[grid.ids[place]].state.clear()


@pytest.mark.parametrize("kind", ["same id", "new id"])
@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("retries", [0, 1])
def test_a_restarted_node_gets_back_what_it_had_posted(kind, every, retries):
    n, w, grid = 5, build_mixing_matrix("ring", 5), LocalGrid(app, 5)
    strategy = DLoRA("ring", evaluate_every=every, retries=retries)
    configure = strategy.configure_train

    def configure_and_restart(server_round, *rest):
        if server_round == 3:
            forget(grid, 2)
            if kind == "new id":
                old = grid.ids[2]
                grid.ids[2] = 4711
                grid.contexts[4711] = grid.contexts.pop(old)
        return configure(server_round, *rest)

    strategy.configure_train = configure_and_restart
    held = held_after(strategy, n, rounds=4, grid=grid)
    expected = np.linalg.matrix_power(w, 4) @ starts(n)
    np.testing.assert_allclose(held, expected, atol=1e-14)


@pytest.mark.parametrize(("retries", "failed"), [(0, [(2, 1, "broken on purpose")]), (1, [])])
def test_a_node_that_fails_once_is_asked_again(retries, failed):
    grid, reported = LocalGrid(app, 3), []
    strategy = DLoRA(
        "ring", evaluate_every=0, retries=retries, on_failure=lambda *what: reported.append(what)
    )
    configure, send = strategy.configure_train, grid.send_and_receive

    def configure_and_break(server_round, *rest):
        grid.broken = {1} if server_round == 2 else set()
        return configure(server_round, *rest)

    def send_and_recover(*args, **options):
        replies = send(*args, **options)
        grid.broken = set()
        return replies

    strategy.configure_train, grid.send_and_receive = configure_and_break, send_and_recover
    held_after(strategy, 3, rounds=3, grid=grid)
    assert [(t, node, cause.split("'")[0].split(": ")[-1]) for t, node, cause in reported] == failed


@pytest.mark.parametrize("harm", [lambda x: x * float("nan"), lambda x: x[:1]])
def test_a_node_whose_post_is_unusable_counts_as_missing(harm):
    """The relay drops the links on both sides, so that W stays doubly stochastic."""
    n, w, reported = 5, build_mixing_matrix("ring", 5), []
    grid = LocalGrid(app, n)
    strategy = DLoRA("ring", evaluate_every=0, on_failure=lambda *what: reported.append(what))
    configure, send, current = strategy.configure_train, grid.send_and_receive, [0]

    def configure_and_count(server_round, *rest):
        current[0] = server_round
        return configure(server_round, *rest)

    def send_and_harm(*args, **options):
        replies = list(send(*args, **options))
        for reply in replies if current[0] == 2 else []:
            if reply.metadata.src_node_id == grid.ids[3] and records.POST in reply.content:
                post = unpack_record(reply.content[records.POST])
                reply.content[records.POST] = pack_record({"x": harm(post["x"])})
        return replies

    strategy.configure_train, grid.send_and_receive = configure_and_count, send_and_harm
    held = held_after(strategy, n, rounds=3, grid=grid)
    np.testing.assert_allclose(held, w @ without_nodes(w, {3}) @ w @ starts(n), atol=1e-14)
    assert [(t, node) for t, node, _ in reported] == [(2, 3)]


def held_and_mixed(strategy, grid, n, rounds, disturb):
    """Run with disturbances; compare with mixing by W without those that are missing in a round."""
    w, present, configure = build_mixing_matrix("ring", n), [], strategy.configure_train

    def configure_and_disturb(server_round, *rest):
        disturb(server_round)
        return configure(server_round, *rest)

    def record(contents, key):
        present.append({content["metrics"]["partition-id"] for content in contents})
        return MetricRecord()

    strategy.configure_train, strategy.train_metrics_aggr_fn = configure_and_disturb, record
    held, expected = held_after(strategy, n, rounds, grid), starts(n)
    absent = [set(range(n)) - nodes for nodes in present]
    for missing in absent:
        expected = without_nodes(w, missing) @ expected
    np.testing.assert_allclose(held, expected, atol=1e-13)
    return absent


def named_client():
    def train(msg, context):
        reply = train_identity(msg, context)
        reply.content["metrics"]["partition-id"] = context.node_config["partition-id"]
        return reply

    client = ClientApp(mods=[peer_mixing])
    client.train()(train)
    client.evaluate()(evaluate_held_value)
    return client


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_node_whose_reply_is_late_counts_as_missing(after, every, retries):
    """The node has mixed and trained, and what it holds is written back sooner or later."""
    n, grid = 5, LocalGrid(named_client(), 5)
    strategy = DLoRA("ring", evaluate_every=every, retries=retries)

    def delay(server_round):
        grid.late = {2: after} if server_round == 3 else {}

    absent = held_and_mixed(strategy, grid, n, 6, delay)
    assert absent == [set(), set(), {2}, set(), set(), set()]


def test_a_late_call_of_a_run_does_not_reach_into_the_next_one():
    n, grid = 4, LocalGrid(named_client(), 4)

    def delay(server_round):
        grid.late = {1: 4} if server_round == 2 else {}

    held_and_mixed(DLoRA("ring", evaluate_every=0), grid, n, 2, delay)
    assert not any(held_and_mixed(DLoRA("ring", evaluate_every=0), grid, n, 5, lambda t: None))


@pytest.mark.parametrize("seed", range(12))
def test_whatever_fails_is_late_or_restarts_the_nodes_present_mix_as_w_says(seed):
    n, rounds, draw = 6, 9, random.Random(seed)
    grid = LocalGrid(named_client(), n)
    grid.keeps_state_of_failed_calls = bool(seed % 2)
    strategy = DLoRA("ring", evaluate_every=seed % 3, retries=seed % 2, max_failures=n)

    def disturb(server_round):
        grid.broken, grid.late = set(), {}
        if 1 < server_round < rounds - 1:
            grid.broken = {draw.randrange(n - 1)}
            grid.late = {draw.randrange(n - 1): draw.randrange(4)}
            if draw.random() < 0.3:
                forget(grid, draw.randrange(n - 1))

    absent = held_and_mixed(strategy, grid, n, rounds, disturb)
    assert sum(map(len, absent)) >= 5


def is_round(message, server_round):
    return message.content.get("config", {}).get("server-round") == server_round


@pytest.mark.parametrize("retries", [0, 1])
def test_a_call_that_fails_does_not_mix_mail_twice_where_its_state_is_kept(retries):
    n, w, failed = 5, build_mixing_matrix("ring", 5), []

    def train(msg, context):
        if is_round(msg, 3) and context.node_config["partition-id"] == 2 and not failed:
            failed.append(3)
            raise ValueError("once")
        return train_identity(msg, context)

    client = ClientApp(mods=[peer_mixing])
    client.train()(train)
    grid = LocalGrid(client, n)
    grid.keeps_state_of_failed_calls = True
    held = held_after(DLoRA("ring", evaluate_every=0, retries=retries), n, rounds=4, grid=grid)
    third = w if retries else without_nodes(w, {2})
    np.testing.assert_allclose(held, w @ third @ w @ w @ starts(n), atol=1e-14)


def test_a_node_whose_post_was_not_finite_continues_from_its_last_finite_one():
    def train(msg, context):
        reply = train_identity(msg, context)
        if is_round(msg, 2) and context.node_config["partition-id"] == 2:
            reply.content["arrays"] = ArrayRecord({"x": torch.full((2,), float("nan")).double()})
        return reply

    n, w, reported = 5, build_mixing_matrix("ring", 5), []
    client = ClientApp(mods=[peer_mixing])
    client.train()(train)
    strategy = DLoRA("ring", evaluate_every=1, on_failure=lambda *what: reported.append(what[:2]))
    grid = LocalGrid(client, n)
    result = strategy.start(grid, ArrayRecord(START), num_rounds=3)
    held = np.stack([state["x"].numpy() for state in strategy.collect(grid).values()])
    np.testing.assert_allclose(held, w @ without_nodes(w, {2}) @ w @ starts(n), atol=1e-14)
    assert reported == [(2, 2)]
    # It counts as missing: the means are those of the other four, on their three edges.
    metrics = result.train_metrics_clientapp[2]
    assert metrics["bytes-sent"] == 16 * 3 * 2 / 4
    posted = np.delete(w @ starts(n), 2, axis=0)
    distances = np.linalg.norm(posted - posted.mean(axis=0), axis=1)
    assert metrics["distance-to-mean"] == pytest.approx(distances.mean())


def test_an_edge_between_an_outlier_and_its_neighbour_is_dropped_on_both_sides():
    # By the median of its neighbourhood node 1 would refuse node 2, and node 2 nobody.
    sizes, reported = [1.0, 30.0, 9e4, 2e3, 5e4, 3e-2], []
    n, w = len(sizes), build_mixing_matrix("ring", len(sizes))

    def train(msg, context):
        reply = train_identity(msg, context)
        if is_round(msg, 1):
            x = sizes[context.node_config["partition-id"]] * torch.tensor(
                [0.6, -0.8], dtype=torch.float64
            )
            reply.content["arrays"] = ArrayRecord({"x": x})
        return reply

    client = ClientApp(mods=[peer_mixing])
    client.train()(train)
    strategy = DLoRA("ring", evaluate_every=0, on_failure=lambda *what: reported.append(what))
    held = held_after(strategy, n, rounds=1, grid=LocalGrid(client, n))
    dropped = {(1, 2), (4, 5)}
    for i, j in dropped:
        w[i, j] = w[j, i] = 0
        w[i, i] += 1 / 3
        w[j, j] += 1 / 3
    np.testing.assert_allclose(w.sum(axis=0), 1)
    np.testing.assert_allclose(held, np.outer(w @ sizes, [0.6, -0.8]), rtol=1e-12)
    assert sorted(node for _, node, _ in reported) == [1, 2, 4, 5]
    assert "its norm is 9e+04 and the receiver's 30;" in str(reported)


def test_nodes_that_come_and_go_keep_the_mean_and_are_no_failures():
    reported = []
    strategy = DLoRA(
        "complete",
        drop_probability=0.6,
        max_failures=0,
        on_failure=lambda *what: reported.append(what),
    )
    n, grid = 6, LocalGrid(app, 6)
    strategy.start(grid, ArrayRecord(START), num_rounds=1)
    trained = [m for m in grid.sent if m.metadata.message_type == "train" and "config" in m.content]
    assert 1 <= len(trained) < n
    assert not reported


def test_a_failure_that_repeats_is_reported_once_and_counted_at_the_end(caplog):
    grid, missing = LocalGrid(app, 3), []
    strategy = DLoRA("ring", evaluate_every=0, on_failure=lambda *what: missing.append(what[:2]))
    configure = strategy.configure_train

    def configure_and_break(*arguments):
        grid.broken = {1}
        return configure(*arguments)

    strategy.configure_train = configure_and_break
    strategy.start(grid, ArrayRecord(START), num_rounds=4)
    assert [record.message for record in caplog.records if "failed" in record.message] == [
        "Round 1: node 1 failed: RuntimeError: broken on purpose",
        "Node 1 failed 4 times: RuntimeError",
    ]
    assert missing == [(t, 1) for t in range(1, 5)]


def test_the_neighbours_of_a_byzantine_node_get_its_opposite_and_it_keeps_its_own():
    n, w = 4, build_mixing_matrix("ring", 4)
    strategy = DLoRA("ring", evaluate_every=1, sign_flipping=1, seed=5)
    grid = LocalGrid(app, n)
    held = held_after(strategy, n, rounds=1, grid=grid)
    (byzantine,) = byzantine_among(n, 1, seed=5)
    said = np.array(starts(n), dtype=float)
    said[byzantine] *= -1
    expected = w @ said
    expected[byzantine] += 2 * w[byzantine, byzantine] * starts(n)[byzantine]  # it believes itself
    np.testing.assert_allclose(held, expected, atol=1e-14)
    evaluated = [m for m in grid.sent if m.metadata.message_type == "evaluate"]
    assert len([m for m in evaluated if "config" in m.content]) == n - 1


def test_nodes_with_too_few_neighbours_to_outvote_byzantine_ones_keep_their_own(caplog):
    n = 4
    strategy = DLoRA("star", evaluate_every=0, robust="clipping", byzantine=2)
    held = held_after(strategy, n, rounds=1)
    np.testing.assert_allclose(held[1:], starts(n)[1:], atol=0)
    assert not np.allclose(held[0], starts(n)[0])
    assert "nodes with fewer than 3 neighbours in a round do not mix" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"robust": "clipping", "byzantine": 2},
            "byzantine must leave .* got 2, with which clipping need",
        ),
        (
            {"robust": "trimmed-mean", "byzantine": 2},
            "needs 4 neighbours, and nodes have at most 2",
        ),
        ({"sign_flipping": 4}, "sign_flipping must leave honest nodes; got 4 of 4"),
    ],
)
def test_a_graph_on_which_no_node_could_mix_stops_the_run(arguments, message):
    with pytest.raises(ValueError, match=message):
        held_after(DLoRA("ring", **arguments), 4, rounds=1)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_node_with_another_model_stops_the_run(retries):
    def train(msg, context):
        reply = train_identity(msg, context)
        if context.node_config["partition-id"] == 2:
            reply.content["arrays"] = ArrayRecord({"x": torch.zeros(3, dtype=torch.float64)})
        return reply

    client = ClientApp(mods=[peer_mixing])
    client.train()(train)
    strategy = DLoRA("ring", evaluate_every=0, retries=retries)
    with pytest.raises(
        RuntimeError, match=r"round 1: node 2 has a different model .* must be \(2,\)"
    ):
        held_after(strategy, 5, rounds=3, grid=LocalGrid(client, 5))


@pytest.mark.parametrize("num_nodes", [0, -1, 2.5, True, "three"])
def test_an_invalid_number_of_nodes_is_refused(num_nodes):
    with pytest.raises(ValueError, match=r"num_nodes must be a whole number >= 1; got"):
        DLoRA("ring", num_nodes=num_nodes)


@pytest.mark.parametrize("name", ["x", "confusion"])
def test_arrays_that_an_evaluation_returns_are_not_the_model(name):
    def evaluate(msg, context):
        reply = evaluate_held_value(msg, context)
        reply.content["more"] = ArrayRecord({name: torch.full((2,), 9.0, dtype=torch.float64)})
        return reply

    app = ClientApp(mods=[peer_mixing])
    app.train()(train_identity)
    app.evaluate()(evaluate)
    n, grid = 4, LocalGrid(app, 4)
    held = held_after(DLoRA("ring"), n, 3, grid)
    expected = np.linalg.matrix_power(build_mixing_matrix("ring", n), 3) @ starts(n)
    np.testing.assert_allclose(held, expected, atol=1e-12)
