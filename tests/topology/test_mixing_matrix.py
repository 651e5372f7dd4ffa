"""What every mixing matrix must satisfy, for all graphs and weight rules (invariants 1, 10, 13)."""

from __future__ import annotations

import json
import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_decaf.topology.graphs import build_graph
from flwr_decaf.topology.mixing_matrix import (
    build_mixing_matrix,
    check_mixing_matrix,
    graph_of,
    lambda2,
    mixing_matrix,
    rounds_to_shrink,
)
from flwr_decaf.topology.rows import rows_of_matrix
from flwr_decaf.topology.weights import WEIGHTS
from tests.dense_rows import without_nodes
from tests.topology.test_graphs import CASES


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("name", "n"), CASES)
def test_every_matrix_is_doubly_stochastic_on_its_graph(name, n, weights):
    graph = build_graph(name, n, seed=3)
    w = mixing_matrix(graph, weights)
    assert w.min() >= 0
    np.testing.assert_allclose(w.sum(axis=0), 1)
    np.testing.assert_allclose(w.sum(axis=1), 1)
    assert np.array_equal(w, w.T)
    assert nx.utils.edges_equal(graph_of(w).edges, graph.edges)
    assert w.diagonal().min() > 0  # known defect 4: the node itself is in the mix
    assert (lambda2(w) < 1 - 1e-9) == nx.is_connected(graph) or n == 1


@pytest.mark.parametrize("n", [2, 3, 10, 102, 200])
@pytest.mark.parametrize("name", ["ring", "bipartite"])
def test_sizes_at_which_other_implementations_fail(name, n):  # known defect 3
    w = build_mixing_matrix(name, n)
    assert w.sum(axis=1).tolist() == pytest.approx([1.0] * n)
    assert lambda2(w) < 1


def test_weights_worked_out_by_hand():
    path = nx.path_graph(3)  # degrees 1, 2, 1
    third = 1 / 3
    expected = [[2 / 3, third, 0], [third, third, third], [0, third, 2 / 3]]
    np.testing.assert_allclose(mixing_matrix(path, "metropolis"), expected)
    np.testing.assert_allclose(mixing_matrix(path, "uniform"), expected)
    # L has eigenvalues 0, 1, 3, so Q = I - 2 L / 9.
    expected = np.array([[7, 2, 0], [2, 5, 2], [0, 2, 7]]) / 9
    np.testing.assert_allclose(mixing_matrix(path, "laplacian"), expected)
    np.testing.assert_allclose(build_mixing_matrix("ring", 10)[0, [9, 0, 1]], third)
    np.testing.assert_allclose(build_mixing_matrix("complete", 7), 1 / 7)
    star = build_mixing_matrix("star", 5, "uniform")
    np.testing.assert_allclose(star[1], [0.2, 0.8, 0, 0, 0])


@pytest.mark.parametrize(("name", "n"), [case for case in CASES if case[1] > 1])
def test_the_spectrum_of_laplacian_weights_is_between_a_third_and_one(name, n):
    spectrum = np.linalg.eigvalsh(mixing_matrix(build_graph(name, n), "laplacian"))
    assert spectrum.min() > 1 / 3 - 1e-9
    assert spectrum.max() < 1 + 1e-9


@pytest.mark.parametrize(
    ("name", "n", "expected"),
    [
        ("complete", 10, 0), ("star", 5, 0.8), ("star", 10, 0.9), ("star", 100, 0.99),
        ("bipartite", 5, 0.5), ("bipartite", 10, 7 / 9), ("exponential", 10, 3 / 7),
        ("exponential", 20, 5 / 9), ("exponential", 5, 0),
    ],
)  # fmt: skip
def test_lambda2_of_known_graphs(name, n, expected):
    assert lambda2(build_mixing_matrix(name, n)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("n", [4, 5, 10, 20, 100])
def test_lambda2_of_the_ring_is_known_in_closed_form(n):  # invariant 10
    expected = (1 + 2 * math.cos(2 * math.pi / n)) / 3
    assert lambda2(build_mixing_matrix("ring", n)) == pytest.approx(expected, abs=1e-9)


def test_rounds_to_shrink_is_the_smallest_number_that_suffices():
    w = build_mixing_matrix("ring", 10)
    rounds = rounds_to_shrink(lambda2(w), factor=1000)
    assert lambda2(w) ** rounds <= 1e-3 < lambda2(w) ** (rounds - 1)
    assert rounds_to_shrink(lambda2(build_mixing_matrix("complete", 5))) == 1
    assert rounds_to_shrink(lambda2(np.eye(3))) == math.inf


@settings(max_examples=50)
@given(n=st.integers(1, 15), p=st.floats(0, 1), seed=st.integers(0, 999), data=st.data())
def test_the_distance_shrinks_by_lambda2_and_w_stays_doubly_stochastic(n, p, seed, data):
    w = mixing_matrix(build_graph("erdos-renyi", n, seed, edge_probability=p))
    x = np.random.default_rng(seed).normal(size=(n, 3))
    distance = np.linalg.norm(x - x.mean(axis=0))
    mixed = np.linalg.matrix_power(w, 4) @ x
    assert np.linalg.norm(mixed - x.mean(axis=0)) <= lambda2(w) ** 4 * distance + 1e-9
    missing = data.draw(st.sets(st.integers(0, n - 1)))
    left = check_mixing_matrix(rows_of_matrix(w).without(missing).matrix())
    assert all(left[node, node] == 1 for node in missing)
    np.testing.assert_allclose(left, without_nodes(w, missing), atol=1e-12)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1.0, 0.0]], "be square"),
        ([[1.5, -0.5], [-0.5, 1.5]], "smallest entry is -0.5"),
        ([[float("nan"), 0.5], [0.5, 0.5]], "be finite"),
        ([[0.5, 0.5], [0.4, 0.6]], r"be symmetric; w\[0\]\[1\]=0.5"),
        ([[0.3, 0.3], [0.3, 0.3]], "row 0 sums to 0.6"),  # defect 3: a ring of two with thirds
    ],
)
def test_an_invalid_matrix_is_rejected(matrix, message):
    with pytest.raises(ValueError, match=message):
        check_mixing_matrix(np.array(matrix))


def test_a_network_from_a_graph_a_matrix_or_a_file(tmp_path):
    w = build_mixing_matrix("ring", 4)
    np.testing.assert_allclose(build_mixing_matrix(nx.cycle_graph(4), 4), w)
    np.testing.assert_allclose(build_mixing_matrix(w, 4), w)
    file = tmp_path / "ring.json"
    file.write_text(json.dumps({"edges": [[0, 1], [1, 2], [2, 3], [3, 0]]}))
    np.testing.assert_allclose(build_mixing_matrix(str(file), 4), w)


def test_a_network_of_another_size_is_rejected():
    with pytest.raises(ValueError, match="must be for n=5 nodes, 0 to n-1; got one for 4 nodes"):
        build_mixing_matrix(nx.cycle_graph(4), 5)
    with pytest.raises(ValueError, match="topology.weights must be one of metropolis"):
        build_mixing_matrix("ring", 5, weights="equal")


def test_a_disconnected_graph_causes_a_warning(caplog):
    build_mixing_matrix("ring", 5)
    build_mixing_matrix("isolated", 5)  # on purpose: local-only
    assert not caplog.records
    build_mixing_matrix(nx.empty_graph(2), 2)
    assert "not connected (2 components, lambda2 = 1)" in caplog.text


def test_entries_just_below_zero_become_zero():
    w = np.array([[-2e-16, 1 + 2e-16], [1 + 2e-16, -2e-16]])
    assert check_mixing_matrix(w).min() == 0
