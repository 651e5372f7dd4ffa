"""Invariants and figures of arXiv 2305.11420, and sequences computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flwr_decaf.topology.base_graphs import base_graphs, hyper_hypercube, simple_base_graphs


def matrices(rounds, n):
    for edges in rounds:
        w = np.zeros((n, n))
        for (i, j), weight in edges.items():
            assert i < j
            w[i, j] = w[j, i] = weight
        np.fill_diagonal(w, 1 - w.sum(axis=1))
        yield w


def mix(rounds, n):
    product = np.eye(n)
    for w in matrices(rounds, n):
        product = w @ product
    return product


@pytest.mark.parametrize("peers", [1, 2, 3, 4])
@pytest.mark.parametrize("n", range(1, 65))
def test_a_period_averages_exactly_over_sparse_doubly_stochastic_rounds(n, peers):
    for rounds in (base_graphs(n, peers), simple_base_graphs(range(n), peers + 1)):
        np.testing.assert_allclose(mix(rounds, n), 1 / n, atol=1e-12)
        assert len(rounds) <= 2 * math.log(n, peers + 1) + 2
        for w in matrices(rounds, n):
            assert w.min() >= -1e-15
            np.testing.assert_allclose(w.sum(axis=0), 1, atol=1e-14)
            assert np.count_nonzero(w - np.diag(np.diag(w)), axis=1).max() <= peers


@pytest.mark.parametrize(
    ("peers", "n", "length", "posts"),
    [
        (1, 5, 5, 3.6), (1, 8, 3, 3), (1, 10, 6, 4.6), (1, 16, 4, 4), (1, 20, 7, 5.6),
        (1, 40, 8, 6.6),
        (2, 5, 3, 4), (2, 8, 3, 3), (2, 9, 2, 4), (2, 10, 4, 5), (2, 16, 4, 4), (2, 20, 5, 6),
        (2, 25, 6, 9.2), (2, 40, 6, 7), (2, 64, 6, 6),
    ],
)  # fmt: skip
def test_rounds_and_posts_of_a_period(peers, n, length, posts):
    rounds = base_graphs(n, peers)
    assert len(rounds) == length
    assert sum(2 * len(edges) for edges in rounds) / n == pytest.approx(posts)


def test_five_nodes_in_pairs_by_hand():  # V_1 = {0..3}, V_2 = {4}
    half = 1 / 2
    assert simple_base_graphs(range(5), 2) == [
        {(0, 1): half, (2, 3): half},
        {(0, 2): half, (1, 3): half},
        {
            (0, 4): 4 / 5
        },  # node 0 receives 4/5 of the value of node 4, for itself and the three others
        {(0, 1): half, (2, 3): half},
        {(0, 2): half, (1, 3): half},
    ]


def test_digits_of_six_nodes():
    pairs, triples = hyper_hypercube(range(6), 3)
    assert set(pairs) == {(0, 1), (2, 3), (4, 5)}
    assert set(triples) == {(0, 2), (0, 4), (2, 4), (1, 3), (1, 5), (3, 5)}
    assert set(pairs.values()) == {1 / 2}
    assert set(triples.values()) == {1 / 3}


def test_a_prime_above_the_clique_has_no_hyper_hypercube():
    assert hyper_hypercube(range(10), 3) is None
    assert hyper_hypercube(range(1), 3) == []


def test_blocks_are_shorter_than_one_sequence_for_all():
    assert len(base_graphs(20, 1)) < len(simple_base_graphs(range(20), 2))
