"""Properties that hold for any input: graphs, weights, rules, settings, files on disk."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_decaf.config import Config, flatten, parse_config
from flwr_decaf.config.comparison import runs_of
from flwr_decaf.messages.checkpoint import Checkpoint, Letter, load_checkpoint, save_checkpoint
from flwr_decaf.messages.inspection import read_posts
from flwr_decaf.messages.packing import pack, packed
from flwr_decaf.rules import ROBUST, RULES
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.topology.graphs import TOPOLOGIES, build_graph
from flwr_decaf.topology.mixing_matrix import (
    Links,
    edges_of,
    links_of,
    matrix_of,
    mixing_matrix,
)
from flwr_decaf.topology.rows import rows_of_matrix
from flwr_decaf.topology.time_varying import TIME_VARYING
from flwr_decaf.topology.weights import WEIGHTS
from tests.states import lora_state

SEEDS = st.integers(0, 10_000)
# Letters that mean something to settings, paths and files, and some that should not.
TEXT = st.text(alphabet="ab01 .,;=/\\\"'[]{}\n\u2028é", max_size=30)
SCALARS = st.one_of(st.booleans(), st.integers(-3, 1000), st.floats(allow_nan=False), TEXT)


def tried(function):
    """What a function returns, or None and what it complains of."""
    try:
        return function(), ""
    except ValueError as error:
        return None, str(error)


def is_fair(w):
    ones = np.ones(len(w))
    return (
        (w >= 0).all()
        and np.allclose(w @ ones, 1, atol=1e-12)
        and np.allclose(ones @ w, 1, atol=1e-12)
        and np.array_equal(w, w.T)
    )


@given(
    family=st.sampled_from(sorted(TOPOLOGIES)),
    weights=st.sampled_from(sorted(WEIGHTS)),
    n=st.integers(5, 40),
    seed=SEEDS,
    missing=st.sets(st.integers(0, 39)),
)
def test_every_graph_has_fair_weights_also_when_nodes_are_missing(
    family, weights, n, seed, missing
):
    graph = build_graph(family, n, seed)
    w, _ = tried(lambda: mixing_matrix(graph, weights))
    if w is None:
        assert weights == "uniform"  # the one that some graphs do not allow
        return
    assert is_fair(w)
    assert {(i, j) for i, j in zip(*np.nonzero(w), strict=True) if i < j} <= {
        (min(e), max(e)) for e in graph.edges
    }
    left = rows_of_matrix(w).without({node for node in missing if node < n}).matrix()
    assert is_fair(left)
    assert all(left[node, node] == 1 for node in missing if node < n)


@given(
    dynamic=st.sampled_from(sorted(TIME_VARYING)),
    family=st.sampled_from(sorted(TOPOLOGIES)),
    n=st.integers(5, 25),
    server_round=st.integers(1, 1000),
    seed=SEEDS,
    p=st.floats(0, 1),
)
def test_a_round_s_graph_is_drawn_alike_every_time_and_weighs_fairly(
    dynamic, family, n, server_round, seed, p
):
    base = edges_of(build_graph(family, n, seed))
    first, again = (TIME_VARYING[dynamic](base, n, seed, p)(server_round) for _ in range(2))
    assert np.array_equal(first, again)
    for weights in WEIGHTS:
        w = matrix_of(Links(first, WEIGHTS[weights](first, n)), n)
        assert is_fair(w)
        assert np.array_equal(links_of(w).edges, first)
        graph = nx.empty_graph(n)
        graph.add_edges_from(first.tolist())
        np.testing.assert_allclose(w, mixing_matrix(graph, weights), atol=1e-15)


@given(
    name=st.sampled_from(sorted(RULES)),
    robust=st.sampled_from(sorted(ROBUST)),
    size=st.integers(1, 6),
    byzantine=st.integers(0, 3),
    rank=st.integers(1, 4),
    shapes=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3),
    seed=SEEDS,
    zero=st.booleans(),
)
def test_every_rule_gives_back_a_finite_state_of_the_same_form(
    name, robust, size, byzantine, rank, shapes, seed, zero
):
    layers = {f"l{i}": shape for i, shape in enumerate(shapes)}
    states = [lora_state(seed + i, rank, layers) for i in range(size)]
    if name == "frozen":
        states = [{k: x for k, x in state.items() if "lora_A" not in k} for state in states]
    if zero:  # as at the start: B = 0
        states = [{k: 0 * x if "lora_B" in k else x for k, x in state.items()} for state in states]
    drawn = np.random.default_rng(seed).dirichlet(np.ones(size))
    mixed = ROBUST[robust](RULES[name], byzantine)(states, drawn.tolist())
    assert list(mixed) == list(states[0])
    for key, x in mixed.items():
        assert (x.shape, x.dtype) == (states[0][key].shape, states[0][key].dtype)
        assert torch.isfinite(x).all()
        # Nothing leaves the hull of what was said, coordinate by coordinate, in dense tensors.
        if "lora" not in key:
            said = torch.stack([state[key] for state in states])
            assert (x <= said.amax(0) + 1e-9).all()
            assert (x >= said.amin(0) - 1e-9).all()


@given(st.dictionaries(st.sampled_from([*flatten(Config()), "no.such", "x"]), SCALARS, max_size=4))
def test_settings_are_taken_or_refused_in_one_line_and_come_back_as_they_were(values):
    config, complaint = tried(lambda: parse_config(values))
    if config is None:
        assert "\n" not in complaint
        assert " must " in complaint
        assert "; " in complaint
        return
    assert parse_config(flatten(config)) == config
    for key, value in values.items():
        assert flatten(config)[key] == value or flatten(config)[key] == str(value)


@given(TEXT)
def test_a_sweep_is_read_or_refused(text):
    runs, complaint = tried(lambda: runs_of(parse_config({"sweep": text})))
    assert runs is not None or " must " in complaint
    for name in runs or {}:
        assert Path(name).name == name != ".."


@given(
    lines=st.lists(
        st.dictionaries(TEXT, SCALARS, max_size=3).map(
            lambda line: {**line, "round": 1, "node": 0, "phase": "train"}
        ),
        max_size=5,
    ),
    cut=st.integers(0, 400),
)
def test_metrics_cut_off_anywhere_are_read_up_to_the_last_whole_line(lines, cut):
    with tempfile.TemporaryDirectory() as temporary:
        folder = RunFolder.create(Path(temporary) / "run", {})
        for line in lines:
            folder.append([line])
        assert folder.metrics == lines
        file = folder.path / "metrics.jsonl"
        whole = file.read_bytes() if file.exists() else b""
        file.write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        assert folder.metrics == lines[:kept]


@given(
    seed=SEEDS,
    at=st.floats(0, 1, exclude_max=True),
    flip=st.integers(1, 255),
    which=st.integers(0, 2),
)
@settings(max_examples=40)
def test_a_checkpoint_with_any_byte_changed_is_not_used(seed, at, flip, which):
    post = pack(lora_state(seed, rank=1, shapes={"q": (2, 3)}))
    saved = Checkpoint(2, {0: post}, {0: Letter((0.5, 0.5), {1: post})})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_checkpoint(folder, Checkpoint(1, {0: post}))
        save_checkpoint(folder, saved)
        file = folder / "round-00002" / ("posts.safetensors", "mail.json", "digest")[which]
        data = bytearray(file.read_bytes())
        data[int(at * len(data))] ^= flip
        file.write_bytes(bytes(data))
        assert load_checkpoint(folder).server_round == 1


@given(noise=st.binary(max_size=200), at=st.floats(0, 1, exclude_max=True), seed=SEEDS)
def test_a_post_of_any_bytes_is_read_or_refused_and_never_harms(noise, at, seed):
    state = lora_state(seed, rank=1, shapes={"q": (2, 3)})
    data = bytearray(pack(state).data)
    place = int(at * len(data))
    data[place : place + len(noise)] = noise
    for post in (packed(bytes(data)), packed(noise)):
        states, causes = read_posts({7: post}, like=state)
        assert states.keys() | causes.keys() == {7}
        for read in states.values():
            assert all(torch.isfinite(x).all() for x in read.values())


def test_the_drawn_values_reach_both_ways_of_the_settings_test():
    # Neither branch of it may be empty.
    assert parse_config({"lora.rank": 3}).lora.rank == 3
    with pytest.raises(ValueError, match="lora.rank must be >= 1"):
        parse_config({"lora.rank": 0})
    assert json.loads(json.dumps(flatten(Config()))) == flatten(Config())
