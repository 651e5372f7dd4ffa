"""What every graph must satisfy. A new family needs one row in SMALLEST."""

from __future__ import annotations

import json

import networkx as nx
import numpy as np
import pytest

from flwr_decaf.topology.graphs import TOPOLOGIES, build_graph, read_topology

# family -> the smallest n on which its default settings allow a graph
SMALLEST = {
    "complete": 1, "ring": 1, "path": 1, "star": 1, "binary-tree": 1, "bipartite": 1, "torus": 1,
    "exponential": 1, "erdos-renyi": 1, "random-regular": 5, "small-world": 5, "isolated": 1,
}  # fmt: skip
CASES = [
    (name, n) for name, least in SMALLEST.items() for n in (1, 2, 3, 5, 10, 12, 200) if n >= least
]


def test_every_family_has_a_row():
    assert set(SMALLEST) == set(TOPOLOGIES)


@pytest.mark.parametrize(("name", "n"), CASES)
def test_every_graph_is_simple_on_all_nodes(name, n):
    graph = build_graph(name, n, seed=3)
    assert sorted(graph) == list(range(n))
    assert nx.number_of_selfloops(graph) == 0
    assert not graph.is_directed()
    assert set(build_graph(name, n, seed=3).edges) == set(graph.edges)


@pytest.mark.parametrize(
    ("name", "n", "edges"),
    [
        ("complete", 4, 6), ("ring", 1, 0), ("ring", 2, 1), ("ring", 3, 3), ("ring", 10, 10),
        ("path", 10, 9), ("star", 10, 9), ("binary-tree", 10, 9), ("bipartite", 2, 1),
        ("bipartite", 3, 2), ("bipartite", 10, 16), ("torus", 12, 24), ("torus", 7, 7),
        ("exponential", 5, 10),
        ("exponential", 10, 30), ("random-regular", 10, 15), ("small-world", 10, 20),
        ("isolated", 10, 0),
    ],
)  # fmt: skip
def test_number_of_edges_worked_out_by_hand(name, n, edges):
    degree = {"degree": 3} if name == "random-regular" else {}
    assert build_graph(name, n, **degree).number_of_edges() == edges


def test_the_hubs_of_the_bipartite_graph_are_not_connected_to_each_other():
    graph = build_graph("bipartite", 10)
    assert sorted(graph.neighbors(0)) == sorted(graph.neighbors(1)) == list(range(2, 10))


def test_random_families_depend_on_seed_and_options():
    assert build_graph("erdos-renyi", 10, edge_probability=0.0).number_of_edges() == 0
    assert build_graph("erdos-renyi", 10, edge_probability=1.0).number_of_edges() == 45
    first, second = (set(build_graph("erdos-renyi", 20, seed=s).edges) for s in (0, 1))
    assert first != second


@pytest.mark.parametrize(
    ("name", "n", "options", "message"),
    [
        ("rign", 5, {}, "topology.name must be one of complete, ring"),
        ("ring", 0, {}, "n >= 1 nodes; got n=0"),
        ("random-regular", 5, {"degree": 3}, "n \\* degree even; got topology.degree=3 with n=5"),
        ("random-regular", 4, {"degree": 4}, "0 <= degree < n"),
        ("small-world", 4, {"degree": 4}, "2 <= degree <= n - 1; got topology.degree=4 with n=4"),
    ],
)
def test_a_graph_that_cannot_be_built_is_rejected(name, n, options, message):
    with pytest.raises(ValueError, match=message):
        build_graph(name, n, **options)


def test_edges_and_matrices_from_a_file(tmp_path):
    file = tmp_path / "graph.json"
    file.write_text(json.dumps({"edges": [[0, 1], [1, 2]], "nodes": 4}))
    graph = read_topology(file)
    assert (sorted(graph), sorted(graph.edges)) == ([0, 1, 2, 3], [(0, 1), (1, 2)])
    file.write_text(json.dumps({"matrix": [[0.75, 0.25], [0.25, 0.75]]}))
    assert np.array_equal(read_topology(file), [[0.75, 0.25], [0.25, 0.75]])


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"edges": [[0]]}', '{"matrix": [["a"]]}'])
def test_a_file_with_neither_is_rejected(tmp_path, text):
    file = tmp_path / "graph.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="topology.file must be a JSON file with"):
        read_topology(file)


def test_a_missing_file_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="FileNotFoundError"):
        read_topology(tmp_path / "none.json")
