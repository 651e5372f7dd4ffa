"""RelaySum on trees, compared with sums computed by hand and with the paper's delays."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies import RelaySum
from flwr_decaf.topology.mixing_matrix import graph_of
from tests.apps.pure_mixing import evaluate_held_value, held_value, start_value
from tests.local_grid import LocalGrid


def reply_with(msg, x):
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": ArrayRecord({"x": x}), "metrics": metrics}), reply_to=msg)


def place_in(context):
    return int(context.node_config["partition-id"])


def train_constant(msg, context):
    """Train, in every round, exactly the model that the node started from."""
    return reply_with(msg, start_value(place_in(context)))


def drift(place, t):
    return np.array([0.5 ** (place + 1), np.sin(place + 3.0 * t)])


def train_drift(msg, context):
    t = int(msg.content["config"]["server-round"])
    x = start_value(place_in(context)) if t == 1 else held_value(msg)
    return reply_with(msg, x + torch.from_numpy(drift(place_in(context), t)))


def run(train, n, topology, rounds, grid=None, evaluate_every=1, **options):
    if grid is None:
        app = ClientApp(mods=[peer_mixing])
        app.train()(train)
        app.evaluate()(evaluate_held_value)
        grid = LocalGrid(app, n)
    strategy = RelaySum(topology, evaluate_every=evaluate_every, **options)
    start = ArrayRecord({"x": torch.zeros(2, dtype=torch.float64)})
    strategy.start(grid, start, num_rounds=rounds)
    held = strategy.collect(grid)
    return np.stack([held[node]["x"].numpy() for node in sorted(held)]), strategy, grid


def relayed(tree, rounds):
    """Compute what nodes hold from the paper's definition: the model at distance d is d - 1 late.

    A model that has not arrived is replaced by the node's own.
    """
    n = len(tree)
    distance = dict(nx.all_pairs_shortest_path_length(tree))
    trained = {}
    held = np.stack([start_value(i).numpy() for i in range(n)])
    for t in range(1, rounds + 1):
        for i in range(n):
            trained[t, i] = held[i] + drift(i, t)
        held = np.stack(
            [
                sum(
                    trained.get((t - max(distance[i][j] - 1, 0), j), trained[t, i])
                    for j in range(n)
                )
                / n
                for i in range(n)
            ]
        )
    return held


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("topology", ["path", "star", "binary-tree", "complete"])
def test_after_diameter_rounds_all_nodes_hold_the_average(topology, n):
    tree = graph_of(RelaySum(topology).network_on(n).base)
    assert nx.is_tree(tree)
    rounds = max(nx.diameter(tree), 1)
    held, _, _ = run(train_constant, n, topology, rounds)
    mean = np.mean([start_value(i).numpy() for i in range(n)], axis=0)
    np.testing.assert_allclose(held, np.tile(mean, (n, 1)), rtol=1e-14)
    if rounds > 1:
        early, _, _ = run(train_constant, n, topology, rounds - 1)
        assert np.abs(early - mean).max() > 0.1


def test_a_path_of_three_worked_out_by_hand():
    # x = (i, i^2): 0, 1 and 2. Round 1: the ends know two models each, the middle all three; an end
    # uses its own model in place of the far one. Round 2: every model is known.
    first, _, _ = run(train_constant, 3, "path", 1)
    np.testing.assert_allclose(first[:, 0], [(0 + 1 + 0) / 3, (0 + 1 + 2) / 3, (2 + 1 + 2) / 3])
    second, _, _ = run(train_constant, 3, "path", 2)
    np.testing.assert_allclose(second, [[1, 5 / 3]] * 3)


@pytest.mark.parametrize("evaluate_every", [0, 1, 2])
@pytest.mark.parametrize(("topology", "n"), [("path", 5), ("star", 5), ("binary-tree", 10)])
def test_models_arrive_with_the_delays_of_the_paper(topology, n, evaluate_every):
    held, strategy, _ = run(train_drift, n, topology, 7, evaluate_every=evaluate_every)
    tree = graph_of(strategy.network.base)
    np.testing.assert_allclose(held, relayed(tree, 7), rtol=1e-12)


def test_a_node_sends_one_message_along_each_edge():
    _, _, grid = run(train_constant, 3, "path", 1)
    posts = [c["decaf.posts"] for c in grid.mail_to(1) if "decaf.posts" in c]
    assert [sorted(post) for post in posts] == [["0", "2"]]


@pytest.mark.parametrize("keeps", [False, True])
def test_the_last_message_of_a_missing_node_remains_in_use(keeps):
    # On the path 0 - 1 - 2, the middle is missing in round 3. The ends train 3 in every round.
    app = ClientApp(mods=[peer_mixing])

    def train(msg, context):
        t = int(msg.content["config"]["server-round"])
        return reply_with(msg, torch.tensor([3.0 * t if place_in(context) == 1 else 3.0]).double())

    app.train()(train)
    grid = LocalGrid(app, 3)
    grid.keeps_state_of_failed_calls = keeps

    def fail(checkpoint):
        grid.broken = {1} if checkpoint.server_round == 2 else set()

    strategy = RelaySum("path", evaluate_every=0, retries=0, on_round=fail)
    start = ArrayRecord({"x": torch.zeros(1, dtype=torch.float64)})
    strategy.start(grid, start, num_rounds=3)
    held = [strategy.collect(grid)[node]["x"].item() for node in range(3)]
    # The ends know 3 of round 2 from the middle's side, (6 + 3) / 2 of two models.
    assert held[0] == held[2] == pytest.approx((3 + 6 + 3) / 3)
    assert held[1] == pytest.approx((3 + 6 + 3) / 3)  # as after round 2


def test_a_node_that_loses_its_state_passes_on_what_it_had_received():
    whole, _, _ = run(train_drift, 5, "path", 6, evaluate_every=0)
    app = ClientApp(mods=[peer_mixing])
    app.train()(train_drift)
    grid = LocalGrid(app, 5)

    def forget(checkpoint):
        if checkpoint.server_round == 3:
            grid.contexts[grid.ids[2]].state = RecordDict()

    held, _, _ = run(train_drift, 5, "path", 6, grid, evaluate_every=0, on_round=forget)
    np.testing.assert_array_equal(held, whole)


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_resumed_run_passes_on_to_the_bit(stop):
    kept = {}
    keep = lambda reached: kept.update({reached.server_round: reached})  # noqa: E731
    whole, _, _ = run(train_drift, 7, "binary-tree", 6, on_round=keep)
    again, _, _ = run(train_drift, 7, "binary-tree", 6, resume_from=kept[stop])
    np.testing.assert_array_equal(again, whole)


def test_posts_that_a_node_cannot_use_are_replaced_by_its_own():
    app = ClientApp(mods=[peer_mixing])

    def train(msg, context):
        x = [1.0, 2.0, 1000.0][place_in(context)]  # beyond a factor of 100 of both others
        return reply_with(msg, torch.tensor([x], dtype=torch.float64))

    app.train()(train)
    grid = LocalGrid(app, 3)
    strategy = RelaySum("path", evaluate_every=0)
    strategy.start(grid, ArrayRecord({"x": torch.zeros(1, dtype=torch.float64)}), num_rounds=2)
    held = [strategy.collect(grid)[node]["x"].item() for node in range(3)]
    # Node 1 passes on to node 0 the mean of 2 and, in place of 1000, 2; node 2 refuses its message.
    assert held == pytest.approx([(1 + 2 + 2) / 3, (1 + 2 + 2) / 3, 1000.0])


def test_kept_mail_is_deleted_after_the_run():
    _, _, grid = run(train_constant, 3, "path", 2)
    again, _, _ = run(train_constant, 3, "path", 1, grid)
    np.testing.assert_allclose(again, run(train_constant, 3, "path", 1)[0])


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"weights": "uniform"}, "topology.weights must be auto"),
        ({"topology": np.eye(3)}, "topology.weights must be auto"),
        ({"dynamic": "edge-activation"}, "topology.dynamic must be static"),
        ({"robust": "trimmed-mean"}, "robust.method must be none"),
        ({"sign_flipping": 1}, "attack.sign-flipping must be 0"),
        ({"posts": "int8"}, "posts.dtype must be fp32"),
    ],
)
def test_options_that_do_not_apply_are_refused(options, key):
    with pytest.raises(ValueError, match=rf"{key} with relay-sum.* omit it, or use dlora"):
        RelaySum(**options)


def test_a_graph_without_a_spanning_tree_is_refused():
    with pytest.raises(ValueError, match="topology must be connected .* got 3 components"):
        RelaySum("isolated").network_on(3)
