"""Stores and posts in them that are gone, damaged or full."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.app import ArrayRecord

from flwr_decaf.clients.own_store import POSTS_STORE
from flwr_decaf.messages.packing import packed
from flwr_decaf.strategies import DLoRA
from tests.messages.stores import limited_file_size
from tests.strategies.stored_runs import (
    A_TICKET,
    THE_REST,
    N,
    assert_same,
    files,
    grid_with,
    run,
)


def spoiling(spoil):
    """Return a function that spoils the posts in the mail of nodes 1 and 3 in round 2."""

    def on_message(grid, message):
        content = message.content
        is_of_round_2 = content.get("config", {}).get("server-round") == 2
        if is_of_round_2 and grid.place_of(message) in (1, 3) and "decaf.posts" in content:
            posts = content["decaf.posts"].items()
            content["decaf.posts"] = ArrayRecord({key: spoil(post) for key, post in posts})

    return on_message


@pytest.mark.parametrize("change", [Path.unlink, lambda file: file.write_bytes(b"x" * 1000)])
def test_a_post_that_is_gone_or_damaged_is_a_missing_neighbour(change, store):
    missing = []

    def spoil(ticket):
        (file,) = Path(store).glob(ticket.data.decode().partition(" ")[0])
        if file.stat().st_size != 1000:
            change(file)
        return ticket

    def spoil_once(ticket):  # nodes 1 and 3 have the same neighbours on the ring
        return spoil(ticket) if list(Path(store).glob(ticket.data.decode()[:81])) else ticket

    stored, result, _ = run(
        DLoRA, store, grid_with(store, on_message=spoiling(spoil_once)), evaluate_every=0,
        on_failure=lambda server_round, node, cause: missing.append((server_round, node, cause)),
    )  # fmt: skip
    assert {(t, node) for t, node, _ in missing} == {(2, 0), (2, 2)}
    assert all("refused its post: it is not in the store, damaged" in why for *_, why in missing)
    assert result.train_metrics_clientapp[2]["mixing-refused"] == 1
    assert result.train_metrics_clientapp[3]["mixing-refused"] == 0
    # The row of W falls back as for posts that are damaged in a message.
    in_messages = grid_with("", on_message=spoiling(lambda post: packed(b"damaged")))
    assert_same(stored, run(DLoRA, "", in_messages, evaluate_every=0)[0])


def test_a_post_that_the_relay_cannot_read_counts_as_missing(store):
    seen, missing = set(), []

    def lose_one(grid, message):  # what the node before wrote, in the third round
        new = files(store) - seen
        seen.update(new)
        config = message.content.get("config", {})
        if config.get("server-round") == 3 and grid.place_of(message) == 2 and not missing:
            missing.append("at work")
            (Path(store) / new.pop()).unlink()

    causes = []
    states, _, _ = run(
        DLoRA, store, grid_with(store, on_message=lose_one), evaluate_every=0,
        on_failure=lambda server_round, node, cause: causes.append((server_round, node, cause)),
    )  # fmt: skip
    assert [(t, node) for t, node, _ in causes] == [(3, 1)]
    assert "not in the store" in causes[0][2]
    assert len(states) == N


def test_a_node_that_lost_its_state_gets_it_through_the_store(store):
    def forget(grid, message):
        config = message.content.get("config", {})
        if config.get("server-round") == 3 and grid.place_of(message) == 1:
            grid.contexts[grid.ids[1]].state.pop("decaf.own", None)
            grid.on_message = lambda grid, message: None

    stored, _, grid = run(DLoRA, store, grid_with(store, on_message=forget))
    plain, _, _ = run(DLoRA, "", grid_with("", on_message=forget))
    assert_same(stored, plain)
    assert max(grid.sizes) < N * A_TICKET + THE_REST


def test_a_node_whose_store_is_gone_fails_alone(store, tmp_path):
    grid, causes = grid_with(store), []
    grid.contexts[grid.ids[2]].node_config[POSTS_STORE] = str(tmp_path / "not mounted")
    run(DLoRA, store, grid, on_failure=lambda *what: causes.append(what))
    assert {node for _, node, _ in causes} == {2}
    assert "posts.store must be an existing folder" in causes[0][2]


def test_a_post_that_does_not_fit_travels_in_the_message(store, caplog):
    plain, _, _ = run(DLoRA, "")
    with limited_file_size(500):  # the probe fits, and no post does
        stored, _, _ = run(DLoRA, store)
    assert_same(stored, plain)
    assert "Node 2 posts in its message: it cannot write to its store" in caplog.text
