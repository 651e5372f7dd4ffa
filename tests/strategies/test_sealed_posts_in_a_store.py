"""Encrypted posts that travel in a store."""

from __future__ import annotations

import pytest

from flwr_decaf.config import Posts
from flwr_decaf.messages.checkpoint import load_checkpoint, save_checkpoint
from flwr_decaf.messages.packing import SEALED, pack, packed
from flwr_decaf.strategies import DLoRA
from tests.apps.drifting import drifting
from tests.keys import keyed_grid, models_of
from tests.states import lora_state
from tests.strategies.sealed_runs import (
    ROUNDS,
    N,
    TamperingGrid,
    assert_same,
    plain,
    run,
)


class TestPostsInAStore:
    def stored(self, keys, store, **options):
        (store).mkdir(exist_ok=True)
        grid = keyed_grid(drifting, keys, N, TamperingGrid, **{"posts-store": str(store)})
        posts = Posts(options.pop("dtype", "fp32"), store=str(store), encryption="x25519")
        return grid, lambda **more: run(DLoRA, grid, posts=posts, **options, **more)

    @pytest.mark.parametrize("dtype", ["fp32", "int8"])
    def test_the_models_are_the_same_and_no_file_can_be_read(self, dtype, keys, tmp_path):
        files = {}

        def look(reached):
            files.update({file: file.read_bytes() for file in (tmp_path / "store").iterdir()})

        grid, start = self.stored(keys, tmp_path / "store", dtype=dtype)
        start(on_round=look)
        expected, _ = plain(DLoRA, dtype=dtype, on_round=lambda _: None)
        assert_same(models_of(grid), expected)
        initial = pack(lora_state(0)).data
        sealed = [data for data in files.values() if data != initial]
        assert len(sealed) >= N * ROUNDS
        assert all(packed(data).stype == SEALED for data in sealed)

    def test_a_checkpoint_resumes(self, keys, tmp_path):
        folder = tmp_path / "checkpoint"

        def keep(reached):
            if reached.server_round == 2:
                save_checkpoint(folder, reached)

        whole, start = self.stored(keys, tmp_path / "store")
        start(on_round=keep)
        resumed, start = self.stored(keys, tmp_path / "store")
        start(resume_from=load_checkpoint(folder))
        assert_same(models_of(resumed), models_of(whole))

    def test_a_post_that_is_gone_is_a_missing_neighbour(self, keys, tmp_path):
        grid, start = self.stored(keys, tmp_path / "store")
        causes = []

        def lose(grid, place, content):
            if place == 1 and "decaf.posts" in content and not causes:
                causes.append("at work")
                ticket = content["decaf.posts"]["2"].data.decode().partition(" ")[0]
                (tmp_path / "store" / ticket).unlink()

        grid.tamper = lose
        start(evaluate_every=0, on_failure=lambda t, node, cause: causes.append((t, node, cause)))
        reported = {(t, node) for t, node, _ in causes[1:]}
        assert reported == {(2, 2)}
        assert all("not in the store" in cause for *_, cause in causes[1:])
