"""Networks on the nodes that are there, against matrices derived by hand."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from flwr_decaf.topology.graphs import TOPOLOGIES, build_graph
from flwr_decaf.topology.membership import NOT_FOR_ANY_SIZE, among, check_any_size, closest
from flwr_decaf.topology.mixing_matrix import check_mixing_matrix
from flwr_decaf.topology.network import build_time_varying_network
from flwr_decaf.topology.time_varying import DYNAMIC


def test_a_path_on_three_of_five_nodes():
    # 1 - 3 - 4 with Metropolis weights 1 / (1 + max degree) = 1/3; nodes 0 and 2 are not there.
    third = 1 / 3
    expected = [
        [1, 0, 0, 0, 0],
        [0, 2 * third, 0, third, 0],
        [0, 0, 1, 0, 0],
        [0, third, 0, third, third],
        [0, 0, 0, third, 2 * third],
    ]
    network = among(build_time_varying_network("path", 3), [1, 3, 4], size=5)
    np.testing.assert_allclose(network.of_round(1), expected, atol=1e-15)


@pytest.mark.parametrize("dynamic", DYNAMIC)
@pytest.mark.parametrize("members", [[2], [0, 5], [1, 2, 6], [0, 1, 2, 3, 4, 5, 6]])
def test_every_round_is_that_of_a_smaller_network_and_doubly_stochastic(dynamic, members):
    small = build_time_varying_network("exponential", len(members), dynamic=dynamic)
    network = among(small, members, size=7)
    for t in range(1, 8):
        w = check_mixing_matrix(network.of_round(t))
        np.testing.assert_allclose(w[np.ix_(members, members)], small.of_round(t), atol=1e-15)
        for other in set(range(7)) - set(members):
            assert w[other].tolist() == np.eye(7)[other].tolist()


def test_all_nodes_are_there():
    whole = build_time_varying_network("ring", 5, dynamic="edge-activation")
    network = among(whole, range(5), size=5)
    assert all(np.array_equal(network.of_round(t), whole.of_round(t)) for t in range(1, 6))


def test_a_newcomer_starts_from_the_closest_neighbour_that_is_settled():
    ring = among(build_time_varying_network("ring", 5), [0, 2, 3, 5, 6], size=7).base
    assert closest(3, ring, settled=[0, 2, 5]) == 2  # equal weights: the first
    assert closest(3, ring, settled=[0, 5]) == 5
    assert closest(3, ring, settled=[0]) == 0  # its neighbours 2 and 5 are newcomers as well
    assert closest(3, ring, settled=[]) is None
    assert closest(3, np.eye(7), settled=[0, 2]) is None  # local-only: no neighbours at all


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_families_that_are_accepted_exist_for_every_number_of_nodes(name):
    sizes = range(1, 18)
    if name not in NOT_FOR_ANY_SIZE:
        check_any_size(name)
        assert [len(build_graph(name, n)) for n in sizes] == list(sizes)
        return
    with pytest.raises(ValueError, match=rf"must be closed with topology.name {name}, .* got open"):
        check_any_size(name)
    with pytest.raises(ValueError, match="needs"):
        build_graph(name, 3)


@pytest.mark.parametrize("given", ["own.json", nx.path_graph(3), np.eye(3)])
def test_graphs_and_matrices_of_one_size_are_refused(given):
    with pytest.raises(ValueError, match=r"must be closed with a given graph or matrix, .* open"):
        check_any_size(given)
