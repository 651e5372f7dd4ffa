from __future__ import annotations

import json
import math
import re
import time

import networkx as nx
import numpy as np
import pytest

from flwr_decaf.topology.mixing_matrix import (
    Links,
    build_mixing_matrix,
    check_mixing_matrix,
    lambda2,
)
from flwr_decaf.topology.mixing_steps import posts_per_round
from flwr_decaf.topology.network import (
    Network,
    build_time_varying_network,
    describe,
)
from flwr_decaf.topology.phase_length import phase_length


def test_a_constant_graph():
    network = build_time_varying_network("ring", 10)
    assert not network.is_time_varying
    assert np.array_equal(network.of_round(7), build_mixing_matrix("ring", 10))
    assert network.rho.value == pytest.approx(lambda2(network.base) ** 2)
    # ring of 10: rho = 0.873^2 = 0.762, 1 / sqrt(0.238) = 2.05
    assert phase_length(network) == 2
    assert phase_length(build_time_varying_network("complete", 5)) == 1


def test_rho_of_random_matchings_on_a_path_of_three():
    # Each round has one of the two edges. E[W^T W] = E[W] (projections), whose non-trivial
    # eigenvalues are 1/4 and 3/4.
    network = build_time_varying_network("path", 3, dynamic="random-matching")
    assert network.rho.value == pytest.approx(0.75, abs=0.03)


def dense_rho(network, rounds):
    """Compute rho by its definition."""
    matrices = [network.of_round(t) for t in rounds]
    mean = np.mean([w.T @ w for w in matrices], axis=0)
    return np.sort(np.linalg.eigvalsh(mean))[-2]


@pytest.mark.parametrize(("n", "period"), [(6, 3), (64, 6), (100, 7), (300, 9)])
def test_rho_of_a_periodic_network_is_exact(n, period):
    network = build_time_varying_network("ring", n, dynamic="one-peer-exponential")
    assert network.rho.value == pytest.approx(dense_rho(network, range(1, period + 1)), abs=1e-9)
    assert network.rho[1:] == (0.0, period)


@pytest.mark.parametrize(
    ("topology", "n", "dynamic", "expected"),
    [
        # W^2 = W = I - L/2 of one edge: I - E[L] / 2, over the n edges of the ring.
        ("ring", 6, "token-walk", 1 - 0.5 * (2 - 2 * math.cos(2 * math.pi / 6)) / 6),
        # Perfect matchings of K_n: each edge with probability 1 / (n - 1).
        ("complete", 10, "random-matching", 0.5 - 0.5 / 9),
        ("complete", 100, "random-matching", 0.5 - 0.5 / 99),
    ],
)
def test_rho_is_estimated_without_bias(topology, n, dynamic, expected):
    value, error, rounds = build_time_varying_network(topology, n, dynamic=dynamic).rho
    assert rounds > 100
    assert 0 < error < 0.02
    assert abs(value - expected) < 4 * error


def test_an_estimated_rho_is_described_with_its_standard_error():
    drawn = describe(build_time_varying_network("complete", 10, dynamic="random-matching"))[-1]
    assert re.fullmatch(r"rho: 0\.4\d\d\d \(standard error 0\.0\d+, 500 rounds sampled\)", drawn)


@pytest.mark.parametrize(
    ("topology", "dynamic"),
    [("ring", "edge-activation"), ("complete", "edge-activation"), ("torus", "random-matching")],
)
def test_rho_of_a_thousand_nodes_is_quick(topology, dynamic):
    network = build_time_varying_network(topology, 1000, dynamic=dynamic)
    started = time.process_time()
    rho = network.rho
    assert time.process_time() - started < 3  # about 1 on an idle machine
    assert network.rho is rho
    assert 0 < rho.value < 1


def test_rho_grows_as_edges_become_rare():
    def at(p):
        options = {"activation_probability": p}
        return build_time_varying_network(
            "complete", 10, topology_options=options, dynamic="edge-activation"
        )

    values = [at(p).rho.value for p in (0.5, 0.1, 0.02)]
    assert values == sorted(values)
    assert values[-1] < 1
    assert phase_length(at(0.02)) > phase_length(at(0.5))
    assert at(0.0).rho.value == 1
    with pytest.raises(ValueError, match=r"tad\.phase-length = auto needs a network"):
        phase_length(at(0.0))


def test_the_rounds_depend_on_the_seed():
    first, again, other = (
        build_time_varying_network("complete", 8, seed=seed, dynamic="edge-activation")
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first.of_round(3), again.of_round(3))
    assert not np.array_equal(first.of_round(3), other.of_round(3))


def test_graphs_listed_in_a_file_are_used_in_turn(tmp_path, caplog):
    file = tmp_path / "rounds.json"
    rounds = [
        {"edges": [[0, 1]], "nodes": 3},
        {"matrix": [[1, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]]},
    ]
    file.write_text(json.dumps({"rounds": rounds}))
    network = build_time_varying_network(str(file), 3)
    assert network.is_time_varying
    assert network.of_round(1).tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]
    assert network.of_round(2).tolist() == rounds[1]["matrix"]
    assert np.array_equal(network.of_round(3), network.of_round(1))
    assert network.rho.value == pytest.approx(0.75)
    assert not caplog.records  # neither is connected, but together they are


def test_a_matrix_cannot_be_combined_with_dynamic(tmp_path):
    with pytest.raises(ValueError, match=r"topology\.dynamic draws from a graph; got 'token-walk'"):
        build_time_varying_network(np.eye(3), 3, dynamic="token-walk")
    assert build_time_varying_network(nx.path_graph(3), 3, dynamic="token-walk").is_time_varying


def test_description_of_a_network():
    assert describe(build_time_varying_network("ring", 10)) == [
        "Nodes: 10, edges: 10, degree: 2",
        "lambda2: 0.8727",
    ]
    walk = build_time_varying_network("star", 2, dynamic="token-walk")
    assert describe(walk)[-1] == "rho: 0.0000"


@pytest.mark.parametrize(("n", "peers"), [(1, 1), (2, 1), (3, 2), (10, 2), (11, 1)])
def test_base_graphs_are_used_in_turn_and_average_exactly(n, peers):
    network = build_time_varying_network(
        "ring", n, dynamic="base", topology_options={"peers": peers}
    )
    product = np.eye(n)
    for t in range(1, network.period + 1):
        product = check_mixing_matrix(network.of_round(t)) @ product
    np.testing.assert_allclose(product, 1 / n, atol=1e-12)
    np.testing.assert_array_equal(network.of_round(network.period + 1), network.of_round(1))


def test_base_graphs_cannot_be_combined_with_a_matrix():
    with pytest.raises(ValueError, match="topology.dynamic draws from a graph"):
        build_time_varying_network(np.eye(3), 3, dynamic="base")


def test_a_round_is_drawn_once_although_its_rows_are_read_one_by_one():
    drawn = []

    def links(t):
        drawn.append(t)
        return Links(np.array([[0, t % 2 + 1]]), np.array([0.25]))

    network = Network(np.eye(3), links, period=None)
    rows = [network.of_round(t)[node].tolist() for t in (1, 2, 1) for node in range(3)]
    odd = [[0.75, 0, 0.25], [0, 1, 0], [0.25, 0, 0.75]]
    assert rows == [*odd, [0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0, 1], *odd]
    assert drawn == [1, 2, 1]
    with pytest.raises(ValueError, match="read-only"):
        network.of_round(1)[0, 0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        network.rows(1).weights[0] = 1.0


@pytest.mark.parametrize(
    ("options", "exchanges", "expected"),
    [
        ({"topology": "path"}, 2, 2 * (1 + 2 + 2 + 1) / 4),
        # Nodes whose numbers differ by 1, 2 and 4 in one bit: (01)(23)(45), (02)(13), (04)(15).
        ({"topology": "ring", "dynamic": "one-peer-exponential", "n": 6}, 3, 2 * (3 + 2 + 2) / 6),
    ],
)
def test_posts_of_a_round(options, exchanges, expected):
    network = build_time_varying_network(**{"n": 4, **options})
    assert posts_per_round(network, exchanges) == pytest.approx(expected)
