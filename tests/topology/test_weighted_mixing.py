from __future__ import annotations

import numpy as np
import pytest

from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from flwr_decaf.topology.network import build_time_varying_network
from flwr_decaf.topology.rows import rows_of_matrix
from flwr_decaf.topology.weighted_mixing import metropolis_rows, weighted_rows


def weighted(w, masses, weigh=weighted_rows, missing=()):
    rows, after = weigh(rows_of_matrix(w).without(missing), masses)
    return rows.matrix(), after


def metropolis(w, masses, missing=()):
    return weighted(w, masses, metropolis_rows, missing)


def test_rows_by_hand():
    w = np.array([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25], [0.0, 0.25, 0.75]])
    rows, masses = weighted(w, np.array([4.0, 0.0, 8.0]))
    np.testing.assert_allclose(masses, [2.0, 4.0, 6.0])
    np.testing.assert_allclose(rows, [[1, 0, 0], [0.5, 0, 0.5], [0, 0, 1]])


def test_equal_masses_leave_the_matrix_as_it_is():
    w = build_mixing_matrix("ring", 5)
    rows, masses = weighted(w, np.full(5, 7.0))
    np.testing.assert_allclose(rows, w, atol=1e-15)
    np.testing.assert_allclose(masses, 7.0)


def test_nodes_without_any_mass_keep_their_own_state():
    rows, masses = weighted(np.full((2, 2), 0.5), np.zeros(2))
    np.testing.assert_array_equal(rows, np.eye(2))
    np.testing.assert_array_equal(masses, 0)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9, 10, 17])
@pytest.mark.parametrize("peers", [1, 2])
def test_a_period_of_base_graphs_gives_fedavgs_average(n, peers):
    network = build_time_varying_network(
        "ring", n, dynamic="base", topology_options={"peers": peers}
    )
    random = np.random.default_rng(n)
    masses, x = random.integers(1, 100, n).astype(float), random.normal(size=(n, 3))
    average, total = masses @ x / masses.sum(), masses.sum()
    for turn in range(1, (network.period or 1) + 1):
        rows, masses = weighted(network.of_round(turn), masses)
        np.testing.assert_allclose(rows.sum(axis=1), 1)
        x = rows @ x
    np.testing.assert_allclose(x, np.tile(average, (n, 1)), atol=1e-12)
    assert masses.sum() == pytest.approx(total)


GRAPHS = ["ring", "star", "path", "complete", "binary-tree", "exponential", "bipartite"]


def masses_for(n):
    return np.random.default_rng(n).integers(1, 100, n).astype(float)


def stationary(rows):
    values, vectors = np.linalg.eig(rows.T)
    leading = np.real(vectors[:, np.argmax(np.real(values))])
    return leading / leading.sum()


def test_metropolis_rows_by_hand():
    w = np.array([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25], [0.0, 0.25, 0.75]])
    rows, masses = metropolis(w, np.array([4.0, 1.0, 2.0]))
    np.testing.assert_allclose(rows, [[0.875, 0.125, 0], [0.5, 0.25, 0.25], [0, 0.125, 0.875]])
    assert masses.tolist() == [4, 1, 2]


@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize("name", GRAPHS)
def test_metropolis_rows_are_in_detailed_balance_with_the_masses(name, n):
    w, masses = build_mixing_matrix(name, n), masses_for(n)
    rows, _ = metropolis(w, masses)
    assert rows.min() >= 0
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    np.testing.assert_array_equal(rows[~np.eye(n, dtype=bool)] > 0, w[~np.eye(n, dtype=bool)] > 0)
    flow = masses[:, None] * rows
    np.testing.assert_allclose(flow, flow.T)
    np.testing.assert_allclose(stationary(rows), masses / masses.sum())


@pytest.mark.parametrize("name", GRAPHS)
def test_equal_masses_leave_metropolis_weights_as_they_are(name):
    w = build_mixing_matrix(name, 6)
    rows, _ = metropolis(w, np.full(6, 30.0))
    np.testing.assert_allclose(rows, w, atol=1e-15)


def test_the_influence_of_a_single_weighted_mix_is_not_the_mass():
    w, masses = build_mixing_matrix("ring", 5), np.array([1.0, 2.0, 3.0, 4.0, 50.0])
    expected = masses * (w @ masses)
    rows, _ = weighted(w, masses)
    np.testing.assert_allclose(stationary(rows), expected / expected.sum())


@pytest.mark.parametrize("missing", [{3}, {0, 1}])
def test_detailed_balance_survives_missing_nodes(missing):
    n = 7
    masses = masses_for(n)
    masses[list(missing)] = 0.0  # they report nothing
    rows, _ = metropolis(build_mixing_matrix("exponential", n), masses, missing)
    flow = masses[:, None] * rows
    np.testing.assert_allclose(flow, flow.T)
    np.testing.assert_allclose(masses @ rows, masses)
    np.testing.assert_array_equal(rows[list(missing)], np.eye(n)[list(missing)])


def test_a_node_without_examples_learns_but_does_not_teach():
    rows, _ = metropolis(build_mixing_matrix("complete", 4), np.array([0.0, 0.0, 5.0, 5.0]))
    np.testing.assert_allclose(rows[0], 0.25)
    np.testing.assert_allclose(rows[2], [0, 0, 0.75, 0.25])
