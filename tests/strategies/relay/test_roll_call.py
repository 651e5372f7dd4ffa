from __future__ import annotations

import pytest

from flwr_decaf.strategies.relay.roll_call import roll_call
from tests.apps.pure_mixing import app, app_without_the_mod
from tests.local_grid import LocalGrid


def test_nodes_stand_in_the_order_of_their_partitions():
    grid = LocalGrid(app, 4)
    assert roll_call(grid) == [grid.ids[place] for place in range(4)]


def test_nobody_starts_before_all_have_registered():  # known defect 7
    grid = LocalGrid(app, 5, arrivals=[0, 0, 2, 2, 3])
    assert len(roll_call(grid)) == 5
    assert len(grid.sent) == 5  # each was asked once


def test_nodes_that_stay_away_are_an_error():  # known defect 7
    grid = LocalGrid(app, 3, node_config=lambda k: {"partition-id": k, "num-partitions": 4})
    with pytest.raises(RuntimeError, match="3 of 4 answered the roll call"):
        roll_call(grid, patience=0.5)
    with pytest.raises(RuntimeError, match="0 of an unknown number"):
        roll_call(LocalGrid(app, 0), patience=0.5)


def test_a_client_app_without_the_mod_is_found_out():
    with pytest.raises(RuntimeError, match=r"write ClientApp\(mods=\[peer_mixing, ...\]\)"):
        roll_call(LocalGrid(app_without_the_mod, 2))


def test_without_partition_ids_nodes_stand_in_the_order_of_their_ids():
    grid = LocalGrid(app, 3, node_config=lambda k: {})
    assert roll_call(grid, num_nodes=3) == sorted(grid.ids)


@pytest.mark.parametrize(
    ("configure", "message"),
    [
        (lambda k: {"partition-id": 0, "num-partitions": 2}, "0 to 1, each once"),
        (lambda k: {"partition-id": k, "num-partitions": 2 + k}, "agree on num-partitions"),
    ],
)
def test_nodes_that_contradict_one_another_are_an_error(configure, message):
    with pytest.raises(RuntimeError, match=message):
        roll_call(LocalGrid(app, 2, node_config=configure))
