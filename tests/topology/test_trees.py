from __future__ import annotations

import json
import logging

import networkx as nx
import pytest

from flwr_decaf.topology.graphs import TOPOLOGIES, build_graph
from flwr_decaf.topology.mixing_matrix import check_mixing_matrix, graph_of
from flwr_decaf.topology.network import build_time_varying_network
from flwr_decaf.topology.trees import spanning_tree, tree_network


@pytest.mark.parametrize("name", [name for name in TOPOLOGIES if name != "isolated"])
@pytest.mark.parametrize("n", [5, 12])
def test_every_family_has_a_spanning_tree_of_its_edges(name, n):
    graph = build_graph(name, n, seed=3)
    tree = spanning_tree(graph)
    assert nx.is_tree(tree)
    assert sorted(tree) == list(range(n))
    assert {frozenset(edge) for edge in tree.edges} <= {frozenset(edge) for edge in graph.edges}


def test_the_tree_of_a_tree_is_itself_and_that_of_a_complete_graph_a_star():
    for tree in (nx.path_graph(6), nx.star_graph(5), nx.full_rary_tree(2, 10)):
        assert nx.utils.edges_equal(spanning_tree(tree).edges, tree.edges)
    assert nx.utils.edges_equal(spanning_tree(nx.complete_graph(4)).edges, nx.star_graph(3).edges)


def test_the_network_of_a_tree_has_only_its_edges_and_names_those_of_a_reduced_graph(caplog):
    caplog.set_level(logging.INFO, "flwr")
    tree = tree_network(build_time_varying_network("ring", 4))
    check_mixing_matrix(tree.of_round(3))
    assert sorted(graph_of(tree.base).edges) == [(0, 1), (0, 3), (1, 2)]
    assert "Spanning tree: edges [(0, 1), (0, 3), (1, 2)]" in caplog.text
    caplog.clear()
    tree_network(tree)
    assert not caplog.records


def test_graphs_that_vary_in_time_are_refused(tmp_path):
    file = tmp_path / "rounds.json"
    file.write_text(json.dumps({"rounds": [{"edges": [[0, 1]]}, {"edges": [[1, 0]]}]}))
    with pytest.raises(ValueError, match="topology.dynamic must be static for a tree"):
        tree_network(build_time_varying_network(str(file), 2))
