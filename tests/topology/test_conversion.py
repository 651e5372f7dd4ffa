from __future__ import annotations

import json

import networkx as nx
import numpy as np
import pytest
import torch

from flwr_decaf.topology.conversion import as_topology
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from flwr_decaf.topology.network import build_time_varying_network
from flwr_decaf.topology.weights import WEIGHTS

RING = build_mixing_matrix("ring", 4)


def loops():
    graph = nx.cycle_graph(4)
    graph.add_edge(1, 1)
    return graph


@pytest.mark.parametrize(
    "given",
    [
        RING.tolist(), tuple(map(tuple, RING)), torch.tensor(RING), nx.cycle_graph(4),
        nx.cycle_graph(4).to_directed(), nx.MultiGraph(nx.cycle_graph(4)), loops(),
        nx.from_numpy_array((RING > 0).astype(int)),
    ],
    ids=["lists", "tuples", "tensor", "graph", "both ways", "multigraph", "self-loop", "weight 1"],
)  # fmt: skip
def test_all_representations_of_a_ring_are_accepted(given):
    np.testing.assert_allclose(build_mixing_matrix(given, 4), RING)
    np.testing.assert_allclose(build_time_varying_network(given, 4).base, RING)


def test_a_path_is_a_file(tmp_path):
    file = tmp_path / "ring.json"
    file.write_text(json.dumps({"edges": [[0, 1], [1, 2], [2, 3], [3, 0]]}))
    np.testing.assert_allclose(build_mixing_matrix(file, 4), RING)
    with pytest.raises(ValueError, match=r"must end in \.json; got 'ring.txt'"):
        as_topology(tmp_path.relative_to(tmp_path) / "ring.txt")


def weighted():
    graph = nx.path_graph(3)
    graph.edges[0, 1]["weight"] = 0.25
    return graph


def named():
    return nx.relabel_nodes(nx.path_graph(3), {0: "a", 1: "b", 2: "c"})


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (3, TypeError, "must be the name of a family, .*; got 3 of type int"),
        (None, TypeError, "got None of type NoneType"),
        ({"a": 1}, TypeError, "of type dict"),
        ("rnig", ValueError, "topology.name must be one of complete"),
        ([(0, 1), (1, 2), (2, 0)], ValueError, r"for a list of edges, pass networkx.Graph\(edges"),
        ([[0.5, 0.5], [1.0]], TypeError, "of type list"),
        (nx.DiGraph([(0, 1), (1, 2), (2, 1)]), ValueError, r"undirected; .* edge \(0, 1\) but not"),
        (nx.MultiGraph([(0, 1), (0, 1)]), ValueError, "several between 0 and 1"),
        (weighted(), ValueError, r"no weights; got 0.25 on edge \(0, 1\); pass a mixing matrix"),
        (named(), ValueError, "integers 0 to n-1; got 'a' among 3 nodes; relabel"),
        (nx.relabel_nodes(nx.path_graph(3), {0: 3}), ValueError, "got 3 among 3 nodes"),
    ],
)
def test_anything_else_is_rejected_in_one_line(given, kind, message):
    with pytest.raises(kind, match=message) as info:
        as_topology(given)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("rule", WEIGHTS)
def test_edge_weights_are_rejected_with_every_rule(rule):
    with pytest.raises(ValueError, match="must have no weights"):
        build_mixing_matrix(weighted(), 3, rule)
