from __future__ import annotations

import numpy as np
import pytest

from flwr_decaf.topology.mixing_matrix import build_network
from flwr_decaf.topology.network import build_time_varying_network
from flwr_decaf.topology.weighted_mixing import weighted_rows


def test_rows_by_hand():
    w = np.array([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25], [0.0, 0.25, 0.75]])
    rows, masses = weighted_rows(w, np.array([4.0, 0.0, 8.0]))
    np.testing.assert_allclose(masses, [2.0, 4.0, 6.0])
    np.testing.assert_allclose(rows, [[1, 0, 0], [0.5, 0, 0.5], [0, 0, 1]])


def test_equal_masses_leave_the_matrix_as_it_is():
    w = build_network("ring", 5)
    rows, masses = weighted_rows(w, np.full(5, 7.0))
    np.testing.assert_allclose(rows, w, atol=1e-15)
    np.testing.assert_allclose(masses, 7.0)


def test_nodes_without_any_mass_keep_their_own_state():
    rows, masses = weighted_rows(np.full((2, 2), 0.5), np.zeros(2))
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
        rows, masses = weighted_rows(network.of_round(turn), masses)
        np.testing.assert_allclose(rows.sum(axis=1), 1)
        x = rows @ x
    np.testing.assert_allclose(x, np.tile(average, (n, 1)), atol=1e-12)
    assert masses.sum() == pytest.approx(total)
