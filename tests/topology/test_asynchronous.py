"""Exchanges of posts between nodes that do not wait for one another."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from flwr_decaf.topology.asynchronous import Exchanges, Received
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from flwr_decaf.topology.rows import rows_of_matrix


def on(graph, n, largest=0):
    return Exchanges(rows_of_matrix(build_mixing_matrix(graph, n)), largest)


def posted(exchanges, posts, *nodes, rounds=(1, 1, 1)):
    """Let nodes post; return what they mix now, and late."""
    got = exchanges.posted(nodes, posts, rounds)
    return {node: (one.now, one.late) for node, one in got.items()}


def test_neighbours_exchange_posts_when_both_have_new_ones():
    exchanges, posts = on("path", 3), {0: "a", 1: "b"}
    assert posted(exchanges, posts, 0) == {0: ({}, {})}
    assert posted(exchanges, posts, 1) == {1: ({0: "a"}, {})}
    posts[0] = "A"
    assert posted(exchanges, posts, 0) == {0: ({}, {1: "b"})}  # for "a", its previous post
    posts[2] = "c"
    assert posted(exchanges, posts, 2) == {2: ({1: "b"}, {})}  # node 0 has exchanged it already
    posts[1] = "B"
    assert posted(exchanges, posts, 1) == {1: ({0: "A"}, {2: "c"})}


def test_posts_that_arrive_together_are_mixed_by_w_to_the_bit():
    w = build_mixing_matrix("star", 6)
    rows, posts = rows_of_matrix(w), {i: i for i in range(6)}
    exchanges = Exchanges(rows)
    for _ in range(3):
        for i, got in exchanges.posted(range(6), posts, [1] * 6).items():
            assert not got.late
            weights, of_previous = got.weights(*rows.row(i))
            assert of_previous == 0
            assert dict(zip((i, *got.now), weights, strict=True)) == {
                j: w[i, j] for j in range(6) if w[i, j]
            }


def test_a_fast_node_waits_with_its_newest_post():
    exchanges, posts = on("path", 2), {}
    for number in range(4):
        posts[0] = f"a{number}"
        assert posted(exchanges, posts, 0) == {0: ({}, {})}
    posts[1] = "b"
    assert posted(exchanges, posts, 1) == {1: ({0: "a3"}, {})}
    assert exchanges.late == {0: {1: "b"}}
    posts[1] = "B"  # before node 0 has mixed "b"
    assert posted(exchanges, posts, 1) == {1: ({}, {})}
    assert posted(exchanges, posts, 0) == {0: ({}, {1: "b"})}
    assert exchanges.waiting == {0: {1}, 1: {0}}
    assert posted(exchanges, posts, 1) == {1: ({0: "a3"}, {})}


@pytest.mark.parametrize(("largest", "exchanged"), [(0, True), (2, True), (1, False)])
def test_the_rounds_of_both_may_differ_by_a_limit(largest, exchanged):
    exchanges, posts = on("path", 2, largest), {0: "a", 1: "b"}
    posted(exchanges, posts, 0, rounds=[3, 0])
    ((now, _),) = posted(exchanges, posts, 1, rounds=[3, 1]).values()
    assert bool(now) == exchanged


def test_weights_sum_to_1_and_never_fall_below_0_by_rounding():
    row = dict.fromkeys(range(1, 11), 0.1)
    received = Received(dict.fromkeys(range(1, 11), ""))
    assert received.weights(0.0, row)[0] == [0.0, *row.values()]
    received = Received({1: "", 2: ""}, {3: ""})
    weights, of_previous = received.weights(0.0, row)
    assert (weights, of_previous) == (pytest.approx([0.8, 0.1, 0.1, 0.1]), -0.1)


def influence_of(node, seconds, graph, until=300.0):
    """Let each training of a node add 1 to its model.

    Returns what a training adds to the mean of all models, and the same with what is late.
    """
    n, draw = len(seconds), np.random.default_rng(0)
    rows, exchanges = rows_of_matrix(build_mixing_matrix(graph, n)), on(graph, n)
    models, posts, trainings = np.zeros(n), {}, 0
    ends = [(draw.uniform(0, seconds[i]), i) for i in range(n)]
    heapq.heapify(ends)
    while ends[0][0] < until:
        now, i = heapq.heappop(ends)
        previous, posts[i] = posts.get(i, 0.0), models[i] + (i == node)
        trainings += i == node
        (got,) = exchanges.posted([i], posts, [0] * n).values()
        weights, of_previous = got.weights(*rows.row(i))
        mixed = (posts[i], *got.now.values(), *got.late.values())
        models[i] = np.dot(weights, mixed) + of_previous * previous
        heapq.heappush(ends, (now + seconds[i] * draw.uniform(0.7, 1.3), i))
    late = sum(
        rows.row(i)[1][j] * (post - posts[i])
        for i, received in exchanges.late.items()
        for j, post in received.items()
    )
    assert np.ptp(models) < 6  # bounded, while the models grow
    return models.mean() / trainings, (models.sum() + late) / n / trainings


@pytest.mark.parametrize("graph", ["ring", "star", "complete"])
@pytest.mark.parametrize("n", [2, 3, 6])
def test_every_training_moves_the_mean_of_the_models_by_its_change(graph, n):
    seconds = [1.0] * (n - 1) + [5.0]
    for node in (0, n - 1):
        mean, with_late = influence_of(node, seconds, graph)
        assert mean == pytest.approx(1 / n, rel=0.05)
        assert with_late == pytest.approx(1 / n, rel=1e-9)
