"""Runs whose posts travel in a store: the same results, with messages of a few KB."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord
from flwr.common.serde import recorddict_to_proto

from benchmarks.relay import adapter
from flwr_decaf.clients.own_store import POSTS_STORE
from flwr_decaf.config import Posts
from flwr_decaf.messages.checkpoint import load_checkpoint, save_checkpoint
from flwr_decaf.messages.packing import packed
from flwr_decaf.strategies import DeCAF, DLoRA, DLoRAFA, RelaySum
from tests.apps.drifting import drifting
from tests.local_grid import LocalGrid
from tests.messages.stores import limited_file_size, s3_server
from tests.states import lora_state

N, ROUNDS = 4, 4
A_TICKET, THE_REST = 250, 1500  # bytes of a message, with names and types


class CountingGrid(LocalGrid):
    """Counts the bytes of messages and replies, and calls ``on_message`` before each."""

    def __init__(self, *args, on_message=lambda grid, message: None, **options):
        super().__init__(*args, **options)
        self.sizes: list[int] = []
        self.on_message = on_message

    def _call(self, message):
        self.on_message(self, message)
        reply = super()._call(message)
        for one in (message, reply):
            if one is not None and one.has_content():
                self.sizes.append(recorddict_to_proto(one.content).ByteSize())
        return reply


def grid_with(store, app=drifting, **options):
    def configure(place):
        config = {"partition-id": place, "num-partitions": N}
        return config | ({POSTS_STORE: store} if store else {})

    return CountingGrid(app, N, node_config=configure, **options)


def run(
    strategy, store, grid=None, topology="ring", posts=None, initial=None, rounds=ROUNDS, **options
):
    grid = grid or grid_with(store)
    relay = strategy(topology, posts=posts or Posts(store=store), **options)
    result = relay.start(grid, ArrayRecord(initial or lora_state(0)), num_rounds=rounds)
    return relay.collect(grid), result, grid


def assert_same(first, second):
    assert first.keys() == second.keys()
    for node, state in first.items():
        assert all(torch.equal(x, second[node][name]) for name, x in state.items())


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    return str(tmp_path / "store")


@pytest.mark.parametrize(
    ("strategy", "dtype", "options"),
    [
        (DeCAF, "fp32", {}),
        (DLoRAFA, "fp32", {"evaluate_every": 0}),
        (DLoRA, "fp32", {"mixing_steps": 2, "sign_flipping": 1}),
        (DLoRA, "int8", {"on_round": lambda reached: None}),  # with exact copies
        (RelaySum, "fp32", {"topology": "binary-tree"}),
    ],
)
def test_the_results_are_those_of_posts_in_messages(strategy, dtype, options, store):
    plain, expected, _ = run(strategy, "", posts=Posts(dtype), **options)
    stored, result, grid = run(strategy, store, posts=Posts(dtype, store), **options)
    assert_same(stored, plain)
    assert_same(
        {0: result.arrays.to_torch_state_dict()}, {0: expected.arrays.to_torch_state_dict()}
    )
    measured = (x.train_metrics_clientapp[ROUNDS]["bytes-sent"] for x in (result, expected))
    assert len(set(measured)) == 1
    assert not list(Path(store).iterdir())
    assert max(grid.sizes) < N * A_TICKET + THE_REST


@pytest.mark.slow
def test_an_adapter_of_60_mb_costs_a_few_kb_of_messages(store):
    states, sizes = {}, {}
    for where in ("", store):
        found = run(DLoRA, where, initial=adapter(60.0), evaluate_every=0, rounds=2)
        states[where], _, grid = found
        sizes[where] = sum(grid.sizes) / N / 2
    print(f"bytes per node and round: {sizes['']:.0f} in messages, {sizes[store]:.0f} in a store")
    assert_same(states[store], states[""])
    assert sizes[""] > 3 * 60e6  # two posts to each node and its own from it, and the start
    assert sizes[store] < 5e3


def test_the_results_are_those_of_an_object_store(monkeypatch):
    plain, _, _ = run(DeCAF, "")
    with s3_server(monkeypatch) as url:
        stored, _, grid = run(DeCAF, url)
        assert not system_of(url).ls("bucket")
    assert_same(stored, plain)
    assert max(grid.sizes) < N * A_TICKET + THE_REST
    sent = "".join(str(message.content) for message in grid.sent)
    assert "of-a-key" not in sent
    assert "bucket" not in sent


def system_of(url):
    import fsspec

    system, _ = fsspec.core.url_to_fs(url)
    system.invalidate_cache()
    return system


def test_the_store_keeps_only_what_is_needed(store):
    counts = []
    run(DLoRA, store, evaluate_every=0, on_round=lambda reached: counts.append(files(store)))
    assert all(0 < len(names) <= 2 * N for names in counts)
    assert len(set().union(*counts)) > 2 * N  # others were deleted


def files(store):
    return {file.name for file in Path(store).iterdir()}


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


def test_a_checkpoint_holds_the_posts_and_resumes_in_a_store_of_its_own(store, tmp_path):
    checkpoints = tmp_path / "checkpoint"

    def keep(reached):
        if reached.server_round == 2:
            save_checkpoint(checkpoints, reached)

    whole, _, _ = run(DLoRA, store, on_round=keep)
    resumed, _, grid = run(DLoRA, store, resume_from=load_checkpoint(checkpoints))
    assert_same(resumed, whole)
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


def test_nodes_without_a_store_are_refused(store):
    with pytest.raises(RuntimeError, match="posts-store must be in .* missing at node 0, 1, 2, 3;"):
        run(DLoRA, store, grid_with(""))


def test_a_store_that_the_relay_cannot_use_is_refused_before_any_node_is_called(store, tmp_path):
    grid = grid_with(store)
    with pytest.raises(ValueError, match="posts.store must be an existing folder"):
        run(DLoRA, str(tmp_path / "none"), grid)
    assert not grid.sent


@pytest.mark.parametrize("root", ["folder", "ftp://me:secret@host/x", "s3://bucket/x?key=secret"])
def test_urls_with_credentials_and_relative_paths_are_refused(root):
    with pytest.raises(ValueError, match="store must be a URL without user, password and query"):
        Posts(store=root)
