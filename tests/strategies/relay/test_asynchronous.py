"""What asynchronous rounds exclude."""

from __future__ import annotations

import json

import pytest
from flwr.app import ArrayRecord

from flwr_decaf.config import Membership, Posts
from flwr_decaf.strategies import DLoRA
from tests.strategies.test_asynchronous import START, grid_of


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixing_steps": 2}, "mixing-steps '2', since further mixes"),
        ({"dynamic": "random-matching"}, "topology.dynamic 'random-matching', since nodes are in"),
        ({"membership": Membership("open")}, "topology.membership 'open', since nodes join"),
        ({"drop_probability": 0.1}, "drop-probability 0.1"),
        ({"posts": Posts(encryption="x25519")}, "posts.encryption 'x25519'"),
        ({"robust": "clipping"}, "robust.method 'clipping'"),
    ],
)
def test_what_needs_common_rounds_is_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=rf"^rounds.mode must be synchronous with {message}.*$"):
        DLoRA("ring", rounds="asynchronous", **options)


def test_graphs_that_change_by_a_file_are_refused(tmp_path):
    rounds = {"rounds": [{"edges": [[0, 1], [1, 2]]}, {"edges": [[0, 2], [1, 2]]}]}
    file = tmp_path / "rounds.json"
    file.write_text(json.dumps(rounds))
    strategy = DLoRA(str(file), rounds="asynchronous")
    with pytest.raises(ValueError, match="with graphs that change from round to round"):
        strategy.start(grid_of(1, 1, 1), ArrayRecord(START), num_rounds=1)
