"""Runs whose posts only neighbours can read: the same results, and attacks by the relay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, MetricRecord

from flwr_decaf.config import Posts
from flwr_decaf.messages.checkpoint import load_checkpoint, save_checkpoint
from flwr_decaf.messages.packing import SEALED, pack
from flwr_decaf.strategies import DeCAF, DLoRA, DLoRAFA, FedAvg, LocalOnly, RelaySum
from flwr_decaf.strategies.centralized import Centralized
from tests.apps.drifting import drifting
from tests.keys import keyed_grid, models_of
from tests.local_grid import LocalGrid
from tests.states import lora_state
from tests.strategies.sealed_runs import (
    ROUNDS,
    SEALED_POSTS,
    N,
    TamperingGrid,
    assert_same,
    plain,
    run,
)


@pytest.mark.parametrize(
    ("strategy", "dtype", "options"),
    [
        (DeCAF, "fp32", {}),
        (DLoRAFA, "fp32", {"evaluate_every": 0}),
        (DLoRA, "fp32", {"mixing_steps": 2, "dynamic": "random-matching"}),
        (DLoRA, "fp32", {"robust": "trimmed-mean", "topology": "complete"}),
        (DLoRA, "bf16", {"drop_probability": 0.3}),
        (DLoRA, "int8", {"on_round": lambda reached: None}),  # with exact copies
        (LocalOnly, "fp32", {}),
    ],
)
def test_the_models_are_those_of_posts_that_anyone_can_read(strategy, dtype, options, keys):
    expected, reported = plain(strategy, dtype=dtype, **options)
    grid = keyed_grid(drifting, keys, N)
    states, result = run(strategy, grid, posts=Posts(dtype, encryption="x25519"), **options)
    assert not states
    assert not result.arrays
    assert_same(models_of(grid), expected)
    for t, record in reported.train_metrics_clientapp.items():
        ours = result.train_metrics_clientapp[t]
        for key in ("mixing-neighbours", "mixing-refused"):
            assert ours[key] == record[key]
        assert "distance-to-mean" not in ours


@pytest.mark.parametrize("n", [1, 2, 3])
def test_small_networks(n, tmp_path):
    expected, _ = plain(DLoRA, n=n)
    grid = keyed_grid(drifting, tmp_path / "keys", n)
    run(DLoRA, grid)
    assert_same(models_of(grid), expected)


def test_no_message_contains_a_value_that_a_node_has_trained(keys):
    replies = []

    class Recording(LocalGrid):
        def call(self, message):
            replies.append(super().call(message))
            return replies[-1]

    grid = keyed_grid(drifting, keys, N, grid=Recording)
    run(DLoRA, grid)
    trained = {
        x.numpy().tobytes()[:16] for state in models_of(grid).values() for x in state.values()
    }
    arrays = [
        a
        for m in (*grid.sent, *replies)
        for r in m.content.array_records.values()
        for a in r.values()
    ]
    sealed = [a for a in arrays if a.stype == SEALED]
    assert len(sealed) > N * ROUNDS
    assert len(arrays) - len(sealed) == N * len(lora_state(0))  # the initial ones, once per node
    assert not any(part in a.data for a in sealed for part in trained)


def test_metrics_are_the_bytes_that_travel_and_the_distance_to_neighbours(keys):
    seen = []
    grid = keyed_grid(drifting, keys, N)
    _, result = run(DLoRA, grid, rounds=2, on_round=seen.append)
    sizes = {len(post.data) for post in seen[0].posts.values()}
    plain_size = len(pack(lora_state(0)).data)
    assert sizes == {plain_size + 153 + 52 * 3}
    assert result.train_metrics_clientapp[1]["bytes-sent"] == 2 * sizes.pop()
    # Node i moves B and the head by i + 1; A, too. Before the first mix, node i and its neighbours
    # on the ring hold the initial state plus i + 1.
    start = lora_state(0)

    def model(i):
        moved = {name: x + i + 1 for name, x in start.items()}
        products = [
            (moved[f"model.{k}.lora_B.weight"] @ moved[f"model.{k}.lora_A.weight"]).flatten()
            for k in ("q", "v", "up")
        ]
        return torch.cat([*products, moved["model.classifier.weight"].flatten()])

    distances = [
        np.mean([float((model(i) - model(j)).norm()) for j in ((i - 1) % N, (i + 1) % N)])
        for i in range(N)
    ]
    measured = result.evaluate_metrics_clientapp[1]["distance-to-neighbours"]
    assert measured == pytest.approx(np.mean(distances))


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_run_resumes_from_a_checkpoint_of_sealed_posts(dtype, stop, keys, tmp_path):
    posts, folder = Posts(dtype, encryption="x25519"), tmp_path / "checkpoint"

    def keep(reached):
        if reached.server_round == stop:
            save_checkpoint(folder, reached)

    whole = keyed_grid(drifting, keys, N)
    run(DeCAF, whole, posts=posts, on_round=keep)
    data = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    states = [x.numpy().tobytes()[:16] for s in models_of(whole).values() for x in s.values()]
    assert not any(part in data for part in states)
    resumed = keyed_grid(drifting, keys, N)
    run(DeCAF, resumed, posts=posts, resume_from=load_checkpoint(folder), on_round=lambda _: None)
    assert_same(models_of(resumed), models_of(whole))


@pytest.mark.parametrize(("was", "now"), [("x25519", "none"), ("none", "x25519")])
def test_a_run_resumes_only_as_it_was_encrypted(was, now, keys):
    kept = []
    grid = keyed_grid(drifting, keys, N) if was == "x25519" else LocalGrid(drifting, N)
    run(DLoRA, grid, posts=Posts(encryption=was), rounds=1, on_round=kept.append)
    with pytest.raises(
        ValueError, match=f"posts.encryption must be that of the .* {was}; got {now}"
    ):
        run(DLoRA, LocalGrid(drifting, N), posts=Posts(encryption=now), resume_from=kept[0])


def forget(place):
    def tamper(grid, node, content):
        if node == place and content.get("config", {}).get("server-round") == 3:
            grid.contexts[grid.ids[place]].state.pop("decaf.own", None)
            grid.tamper = lambda *_: None

    return tamper


def test_a_node_that_lost_its_state_gets_its_sealed_post_back(keys):
    grids = [keyed_grid(drifting, keys, N, TamperingGrid), TamperingGrid(drifting, N)]
    for grid, posts in zip(grids, (SEALED_POSTS, Posts()), strict=True):
        grid.tamper = forget(1)
        run(DLoRA, grid, posts=posts)
    assert_same(models_of(grids[0]), models_of(grids[1]))


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_node_that_fails_in_a_round_takes_part_in_the_next(kind, keys):
    grids = [keyed_grid(drifting, keys, N, TamperingGrid), TamperingGrid(drifting, N)]
    for grid, posts in zip(grids, (SEALED_POSTS, Posts()), strict=True):

        def fail(grid, place, content, kind=kind):
            now = content.get("config", {}).get("server-round")
            evaluates = "decaf.posts" in content  # they are sent with the evaluate message
            grid.broken = {3} if now == 2 and evaluates == (kind == "evaluate") else set()

        grid.keeps_state_of_failed_calls = True
        grid.tamper = fail
        run(DLoRA, grid, posts=posts)
    assert_same(models_of(grids[0]), models_of(grids[1]))


def test_a_node_that_answers_late_is_set_back_to_its_last_post(keys):
    grids = [keyed_grid(drifting, keys, N, TamperingGrid), TamperingGrid(drifting, N)]
    for grid, posts in zip(grids, (SEALED_POSTS, Posts()), strict=True):

        def be_late(grid, place, content):
            if place == 2 and content.get("config", {}).get("server-round") == 2:
                grid.late = {2: 1}
                grid.tamper = lambda *_: None

        grid.tamper = be_late
        run(DLoRA, grid, posts=posts, evaluate_every=0)
    assert_same(models_of(grids[0]), models_of(grids[1]))


@pytest.mark.parametrize(
    ("strategy", "options", "error"),
    [
        (RelaySum, {}, "posts.encryption must be none with relay-sum"),
        (DLoRA, {"sign_flipping": 1}, "attack.sign-flipping must be 0 with posts.encryption"),
        (FedAvg, {"num_rounds": 1}, "posts.encryption must be none with fedavg and centralized"),
        (Centralized, {"num_rounds": 1}, "posts.encryption must be none with fedavg"),
    ],
)
def test_what_needs_readable_posts_is_refused(strategy, options, error):
    with pytest.raises(ValueError, match=error):
        strategy(posts=SEALED_POSTS, **options)


def test_the_average_is_not_scored(keys):
    grid = keyed_grid(drifting, keys, N)
    relay = DLoRA(posts=SEALED_POSTS)
    with pytest.raises(ValueError, match="evaluate-average .* must not be set with posts.encryp"):
        relay.start(
            grid, ArrayRecord(lora_state(0)), num_rounds=1, evaluate_fn=lambda *_: MetricRecord()
        )
    assert not grid.sent
