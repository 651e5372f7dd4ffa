from __future__ import annotations

from flwr.app import ArrayRecord, ConfigRecord

from flwr_decaf.strategies import STRATEGIES
from tests.local_grid import LocalGrid
from tests.states import lora_state
from tests.strategies.conformance import app_of, train_told


def test_centralized_calls_the_same_node_in_every_round():
    app = app_of("centralized", train_told)
    grid = LocalGrid(app, 5)
    places = dict(zip(grid.ids, range(5), strict=True))
    strategy = STRATEGIES["centralized"](
        evaluate_every=1, evaluate_fraction=0.4, num_rounds=4, positions=places
    )
    both = ConfigRecord({"trainable-factors": "AB"})
    strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=4, train_config=both)
    assert [grid.place_of(message) for message in grid.sent] == [0] * 8
