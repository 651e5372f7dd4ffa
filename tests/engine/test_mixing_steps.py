"""A period of Base-(k+1) graphs in each round, with 8-bit posts, on both engines."""

from __future__ import annotations

import pytest

from flwr_decaf.runs.folder import RunFolder
from tests.engine.test_flwr_run import NODES, adapters, flwr_decaf_run, same_adapters

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SETTINGS = {
    "strategy": "dlora",
    "topology.dynamic": "base",
    "mixing-steps": "period",
    "posts.dtype": "int8",
    "evaluate-every": 2,
}


def test_all_nodes_end_with_the_average_on_either_engine(tmp_path):
    folders = []
    for engine in ("simulation", "deployment"):
        status, log = flwr_decaf_run(tmp_path, engine, f"--engine={engine}", **SETTINGS)
        assert status == 0, log
        folders.append(RunFolder(tmp_path / engine))
    assert same_adapters(*folders)
    first = adapters(folders[0])
    assert len(first) == NODES
    for state in first.values():
        for key, x in state.items():  # what is left is rounding: two steps of a post each
            step = float(first["node-0"][key].abs().max()) / 127
            assert float((x - first["node-0"][key]).abs().max()) < 6 * step
    values = 12 * 8 * (384 + 384) + 384 * 20 + 20
    for folder in folders:
        lines = [line for line in folder.metrics if line["phase"] == "train"]
        for line in lines:  # two exchanges with one neighbour each
            assert values < line["bytes-sent"] / 2 < 1.2 * values
        assert [line["mixing-neighbours"] for line in lines] == [1] * NODES + [2] * NODES
