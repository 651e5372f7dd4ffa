"""Runs whose posts travel in a store: the same results, with messages of a few KB."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.relay import adapter
from flwr_decaf.config import Posts
from flwr_decaf.messages.checkpoint import load_checkpoint, save_checkpoint
from flwr_decaf.strategies import DeCAF, DLoRA, DLoRAFA, RelaySum
from tests.messages.stores import s3_server
from tests.strategies.stored_runs import (
    A_TICKET,
    ROUNDS,
    THE_REST,
    N,
    assert_same,
    files,
    grid_with,
    run,
)


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


def test_a_checkpoint_holds_the_posts_and_resumes_in_a_store_of_its_own(store, tmp_path):
    checkpoints = tmp_path / "checkpoint"

    def keep(reached):
        if reached.server_round == 2:
            save_checkpoint(checkpoints, reached)

    whole, _, _ = run(DLoRA, store, on_round=keep)
    resumed, _, grid = run(DLoRA, store, resume_from=load_checkpoint(checkpoints))
    assert_same(resumed, whole)
    assert max(grid.sizes) < N * A_TICKET + THE_REST


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
