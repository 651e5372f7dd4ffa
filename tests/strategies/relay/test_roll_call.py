from __future__ import annotations

import pytest
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies.relay.roll_call import roll_call
from tests.apps.pure_mixing import app, app_without_the_mod
from tests.local_grid import LocalGrid


def test_nodes_are_sorted_by_their_partitions():
    grid = LocalGrid(app, 4)
    assert roll_call(grid) == [grid.ids[place] for place in range(4)]


def test_no_node_starts_before_all_have_registered():  # known defect 7
    grid = LocalGrid(app, 5, arrivals=[0, 0, 2, 2, 3])
    assert len(roll_call(grid)) == 5
    assert len(grid.sent) == 5  # each was asked once


def test_nodes_that_never_register_are_an_error():  # known defect 7
    grid = LocalGrid(app, 3, node_config=lambda k: {"partition-id": k, "num-partitions": 4})
    with pytest.raises(RuntimeError, match="3 of 4 answered the roll call"):
        roll_call(grid, patience=0.5)
    with pytest.raises(RuntimeError, match="0 of an unknown number"):
        roll_call(LocalGrid(app, 0), patience=0.5)


def test_a_client_app_without_the_mod_is_detected():
    with pytest.raises(RuntimeError, match=r"write ClientApp\(mods=\[peer_mixing, ...\]\)"):
        roll_call(LocalGrid(app_without_the_mod, 2))


def failing_app(error):
    def fail(msg, context):
        raise error

    client = ClientApp()
    client.train()(fail)
    return client


@pytest.mark.parametrize("error", [KeyError("arrays"), IndexError("list index out of range")])
def test_a_train_function_that_misses_its_arrays_ran_without_the_mod(error):
    cause = rf"failed in the roll call: {type(error).__name__}: .*; most likely .* lacks the mod"
    with pytest.raises(RuntimeError, match=cause):
        roll_call(LocalGrid(failing_app(error), 2))


def test_an_error_of_another_kind_is_reported_without_a_word_on_the_mod():
    error = ImportError("libgomp.so.1: cannot open shared object file")
    with pytest.raises(RuntimeError, match="in the roll call: ImportError: libgomp") as raised:
        roll_call(LocalGrid(failing_app(error), 2))
    assert "mod" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_client_app_without_a_train_function_is_asked_for_one():
    with pytest.raises(RuntimeError, match=r"has no train function; register one with @app.train"):
        roll_call(LocalGrid(ClientApp(mods=[peer_mixing]), 2))


def test_without_partition_ids_nodes_are_sorted_by_their_ids():
    grid = LocalGrid(app, 3, node_config=lambda k: {})
    assert roll_call(grid, num_nodes=3) == sorted(grid.ids)


@pytest.mark.parametrize(
    ("configure", "message"),
    [
        (lambda k: {"partition-id": 0, "num-partitions": 2}, "0 to 1, each once"),
        (lambda k: {"partition-id": k, "num-partitions": 2 + k}, "have the same num-partitions"),
    ],
)
def test_nodes_that_contradict_one_another_are_an_error(configure, message):
    with pytest.raises(RuntimeError, match=message):
        roll_call(LocalGrid(app, 2, node_config=configure))


@pytest.mark.parametrize(
    ("num_nodes", "configure", "message"),
    [
        (3, lambda k: {}, "num_nodes must be the number of nodes; got 3, but 4 answered"),
        (3, lambda k: {"partition-id": k, "num-partitions": 4}, "num-partitions, 4; got 3;"),
        (6, lambda k: {"partition-id": k, "num-partitions": 4}, "num-partitions, 4; got 6;"),
        (6, lambda k: {}, "4 of 6 answered the roll call; start 2 SuperNodes, or lower num_nodes"),
        (6, lambda k: {"partition-id": k + 1}, "start those with partition-id 0, 5, or lower"),
        (None, lambda k: {}, "4 of an unknown number .*; give each SuperNode num-partitions"),
        (None, lambda k: {"partition-id": k, "num-partitions": 6}, "start those with .*-id 4, 5$"),
    ],
)
def test_another_number_of_nodes_than_asked_for_is_an_error(num_nodes, configure, message):
    with pytest.raises(RuntimeError, match=message):
        roll_call(LocalGrid(app, 4, node_config=configure), num_nodes, patience=0.3)


def test_waiting_reports_how_many_nodes_have_registered(caplog):
    caplog.set_level("INFO", logger="flwr")
    with pytest.raises(RuntimeError, match=r"waited 1 s .* 2 of 3"):
        roll_call(LocalGrid(app, 2, lambda k: {}), 3, patience=1, report_every=0.3)
    assert caplog.text.count("Roll call: 2 of 3 answered the roll call") >= 2
