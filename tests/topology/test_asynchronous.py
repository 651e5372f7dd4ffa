"""Rows of W in asynchronous rounds."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from flwr_decaf.topology.asynchronous import Staleness
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from flwr_decaf.topology.rows import rows_of_matrix

PATH = build_mixing_matrix("path", 3)  # rows [2/3, 1/3, 0], [1/3, 1/3, 1/3], [0, 1/3, 2/3]


def on(w):
    return Staleness(rows_of_matrix(w))


def row(staleness, node, largest=0):
    return staleness.rows(largest).matrix()[node]


def test_links_without_a_post_are_dropped():
    staleness = on(PATH)
    staleness.arrived([1, 2])
    np.testing.assert_allclose(row(staleness, 1), [0, 2 / 3, 1 / 3])
    np.testing.assert_allclose(row(staleness, 0), PATH[0])  # of 1, a post is there


def test_a_post_is_mixed_once_and_again_if_it_may_be_stale():
    staleness = on(PATH)
    staleness.arrived([0, 1])
    np.testing.assert_allclose(row(staleness, 0), PATH[0])
    staleness.mixed([0])
    np.testing.assert_allclose(row(staleness, 0), [1, 0, 0])
    np.testing.assert_allclose(row(staleness, 0, largest=1), PATH[0])
    staleness.arrived([1])  # a new one
    np.testing.assert_allclose(row(staleness, 0), PATH[0])
    assert staleness.of_links.tolist() == [0, 0, np.inf, 0]  # 0 <- 1, 1 <- 0, 1 <- 2, 2 <- 1


def test_posts_that_arrive_together_are_mixed_by_w_to_the_bit():
    w = build_mixing_matrix("star", 6)
    staleness = on(w)
    for _ in range(3):
        staleness.arrived(range(6))
        assert (staleness.rows(0).matrix() == w).all()
        staleness.mixed(range(6))


def test_means_are_those_of_the_posts_that_are_mixed():
    staleness = on(build_mixing_matrix("star", 4))
    staleness.arrived([1, 2])
    staleness.mixed([0])
    staleness.arrived([2, 3])
    values = np.array([9.0, 1.0, 2.0, 4.0])
    assert staleness.means_of(0, 0, values) == (0, 3)
    assert staleness.means_of(0, 1, values) == (1 / 3, 7 / 3)
    assert staleness.means_of(1, 5, values) == (0, 0)


def influence_of(node, seconds, largest, until=3000.0):
    """Let each training of a node add 1 to its model; return what it adds to the mean of all."""
    n, draw = len(seconds), np.random.default_rng(0)
    staleness = on(build_mixing_matrix("ring", n))
    models, posts, trainings = np.zeros(n), np.zeros(n), 0
    ends = [(draw.uniform(0, seconds[i]), i) for i in range(n)]
    heapq.heapify(ends)
    while ends[0][0] < until:
        now, i = heapq.heappop(ends)
        posts[i] = models[i] + (i == node)
        trainings += i == node
        staleness.arrived([i])
        models[i] = row(staleness, i, largest) @ posts
        staleness.mixed([i])
        heapq.heappush(ends, (now + seconds[i] * draw.uniform(0.7, 1.3), i))
    return models.mean() / trainings


@pytest.mark.parametrize(("largest", "expected"), [(0, 1.0), (np.inf, 5.0)])
def test_every_training_counts_the_same_if_posts_are_mixed_once_else_every_node(largest, expected):
    seconds = [1.0, 1.0, 1.0, 1.0, 5.0]
    slow, fast = influence_of(4, seconds, largest), influence_of(1, seconds, largest)
    assert slow / fast == pytest.approx(expected, rel=0.06)
