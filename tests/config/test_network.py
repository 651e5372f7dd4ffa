from __future__ import annotations

import pytest

from flwr_decaf.config import Config
from flwr_decaf.config.network import graph_in_words
from flwr_decaf.config.parsing import flatten

DEFAULT = flatten(Config())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"topology.name": "star"}, "star"),
        ({"topology.name": "ring", "topology.dynamic": "base"}, "base"),
        (
            {"topology.name": "ring", "topology.dynamic": "edge-activation"},
            "ring, edge-activation",
        ),
        ({"topology.file": "/home/me/graphs/mine.json"}, "mine.json"),
        ({"strategy": "fedavg"}, ""),
        ({"strategy": "local-only"}, ""),
        ({"strategy": "centralized"}, ""),
    ],
)
def test_the_graphs_of_a_run_in_words(settings, words):
    assert graph_in_words(DEFAULT | settings) == words
