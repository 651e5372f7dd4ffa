from __future__ import annotations

import numpy as np
import pytest

from flwr_decaf.topology.mixing_matrix import (
    Links,
    build_mixing_matrix,
    check_mixing_matrix,
    links_of,
)
from flwr_decaf.topology.rows import rows_of, rows_of_matrix

# Node 0 mixes the posts of 1 and 2, which mix only its own; node 3 is alone.
STAR = np.array(
    [[0.25, 0.5, 0.25, 0.0], [0.5, 0.5, 0.0, 0.0], [0.25, 0.0, 0.75, 0.0], [0.0, 0.0, 0.0, 1.0]]
)


def test_rows_by_hand():
    rows = rows_of_matrix(STAR)
    assert rows.row(0) == (0.25, {1: 0.5, 2: 0.25})
    assert rows.row(2) == (0.75, {0: 0.25})
    assert rows.row(3) == (1.0, {})
    assert rows.neighbours(0) == [1, 2]
    assert rows.degrees.tolist() == rows.readers.tolist() == [2, 1, 1, 0]
    np.testing.assert_array_equal(rows.matrix(), STAR)


def test_a_post_whose_weight_is_zero_has_no_reader():
    rows = rows_of_matrix(STAR)
    one_way = rows.with_weights(np.where(rows.others == 0, 0.0, rows.weights))
    assert one_way.degrees.tolist() == [2, 0, 0, 0]
    assert one_way.readers.tolist() == [0, 1, 1, 0]
    assert one_way.row(1) == (1.0, {})


@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize("name", ["ring", "star", "complete", "exponential", "isolated"])
def test_links_and_matrix_give_the_same_rows(name, n):
    w = build_mixing_matrix(name, n)
    np.testing.assert_allclose(rows_of(links_of(w), n).matrix(), w, atol=1e-15)
    x = np.random.default_rng(n).normal(size=n)
    np.testing.assert_allclose(rows_of_matrix(w).times(x), w @ x, atol=1e-14)


def test_links_in_any_order_give_sorted_rows():
    links = Links(np.array([[2, 3], [0, 3], [0, 1]]), np.array([0.5, 0.25, 0.125]))
    assert rows_of(links, 4).row(3) == (0.25, {0: 0.25, 2: 0.5})


def test_without_missing_nodes_the_rows_are_the_same_object():
    rows = rows_of_matrix(STAR)
    assert rows.without(set()) is rows


def test_dropped_links_give_their_weight_to_both_nodes():
    left = rows_of_matrix(build_mixing_matrix("ring", 4)).without({1}).matrix()
    third = 1 / 3
    expected = [[2 / 3, 0, 0, third], [0, 1, 0, 0], [0, 0, 2 / 3, third], [third, 0, third, third]]
    np.testing.assert_allclose(left, expected)


@pytest.mark.parametrize("reach", [2, 3, 5, 7])
def test_a_zero_own_weight_stays_zero_when_a_node_elsewhere_is_missing(reach):
    """Rounding must not turn it into -2e-16, which every rule would reject."""
    n = 4 * reach
    shares = np.random.default_rng(reach).dirichlet(np.ones(reach)) / 2
    w = np.zeros((n, n))
    for hop, share in enumerate(shares, start=1):
        w += share * (np.roll(np.eye(n), hop, axis=1) + np.roll(np.eye(n), -hop, axis=1))
    assert w.diagonal().tolist() == [0] * n
    for missing in range(n):
        left = rows_of_matrix(check_mixing_matrix(w)).without({missing}).matrix()
        assert left.min() >= 0
        np.testing.assert_allclose(left.sum(axis=1), 1, atol=1e-15)
        np.testing.assert_allclose(left.sum(axis=0), 1, atol=1e-15)
