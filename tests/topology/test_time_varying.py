from __future__ import annotations

import itertools
import random

import networkx as nx
import numpy as np
import pytest

from flwr_decaf.seeds import derive_seed
from flwr_decaf.topology.mixing_matrix import check_mixing_matrix, edges_of, mixing_matrix
from flwr_decaf.topology.time_varying import TIME_VARYING, check_dynamic, period_of

# family -> the most edges that a round may have on a complete graph of n nodes
CASES = {
    "static": lambda n: n * (n - 1) // 2,
    "edge-activation": lambda n: n * (n - 1) // 2,
    "one-peer-exponential": lambda n: n // 2,
    "random-matching": lambda n: n // 2,
    "token-walk": lambda n: 1,
}


def draw(name, n, t, seed=0, p=0.5, base=None):
    rounds = TIME_VARYING[name](edges_of(base or nx.complete_graph(n)), n, seed, p)
    graph = nx.empty_graph(n)
    graph.add_edges_from(rounds(t).tolist())
    return graph


def edges(graph):
    return sorted(tuple(sorted(edge)) for edge in graph.edges)


def test_every_family_has_a_row():
    assert CASES.keys() == TIME_VARYING.keys()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 40])
def test_every_round_has_a_doubly_stochastic_matrix(name, n):
    for t in range(1, 8):
        graph = draw(name, n, t)
        assert sorted(graph) == list(range(n))
        assert graph.number_of_edges() <= CASES[name](n)
        assert not list(nx.selfloop_edges(graph))
        w = check_mixing_matrix(mixing_matrix(graph))
        for node in nx.isolates(graph):
            assert w[node, node] == 1  # keeps its own factors


@pytest.mark.parametrize("name", CASES)
def test_rounds_depend_only_on_seed_and_round(name):
    once = [edges(draw(name, 12, t, seed=3)) for t in range(1, 9)]
    assert [edges(draw(name, 12, t, seed=3)) for t in reversed(range(1, 9))] == once[::-1]
    if name not in ("static", "one-peer-exponential"):
        assert [edges(draw(name, 12, t, seed=4)) for t in range(1, 9)] != once


@pytest.mark.parametrize("name", sorted(set(CASES) - {"one-peer-exponential"}))
def test_edges_are_those_of_the_base(name):
    base = nx.cycle_graph(9)
    for t in range(1, 20):
        assert set(edges(draw(name, 9, t, base=base))) <= set(edges(base))


def test_edges_are_active_with_the_given_probability():
    counts = [draw("edge-activation", 10, t, p=0.2).number_of_edges() for t in range(1, 401)]
    # 45 edges x 400 rounds: their fraction has a standard deviation of 0.003
    assert np.mean(counts) / 45 == pytest.approx(0.2, abs=0.015)
    assert draw("edge-activation", 10, 1, p=0.0).number_of_edges() == 0
    assert draw("edge-activation", 10, 1, p=1.0).number_of_edges() == 45


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_one_peer_exponential_agrees_after_log2_n_rounds(n):
    bits = n.bit_length() - 1
    product = np.eye(n)
    for t in range(1, bits + 1):
        product = mixing_matrix(draw("one-peer-exponential", n, t)) @ product
    np.testing.assert_allclose(product, 1 / n, atol=1e-15)


def test_a_matching_is_maximal():
    base = nx.cycle_graph(7)
    for t in range(1, 20):
        graph = draw("random-matching", 7, t, base=base)
        assert max(degree for _, degree in graph.degree) == 1
        free = set(nx.isolates(graph))
        assert not any({i, j} <= free for i, j in base.edges)


def test_the_token_continues_from_its_last_node():
    walk = [edges(draw("token-walk", 6, t)) for t in range(1, 30)]
    assert 0 in walk[0][0]
    for (before,), (after,) in itertools.pairwise(walk):
        assert set(before) & set(after)


def test_an_unknown_name_is_rejected():
    with pytest.raises(ValueError, match=r"topology\.dynamic must be one of static, .*got 'often'"):
        check_dynamic("often")


@pytest.mark.parametrize("name", CASES)
def test_rounds_repeat_after_the_period(name):
    n, period = 11, period_of(name, 11)
    once = [edges(draw(name, n, t)) for t in range(1, 5)]
    later = [edges(draw(name, n, t + (period or 4))) for t in range(1, 5)]
    assert (once == later) == (period is not None)


def test_edges_are_drawn_as_by_random_random():
    """Edge i is active if the i-th number is below p; NumPy draws the same numbers."""
    generator = random.Random(derive_seed(3, "edge activation", 7))
    expected = [e for e in itertools.combinations(range(9), 2) if generator.random() < 0.3]
    assert edges(draw("edge-activation", 9, 7, seed=3, p=0.3)) == expected
