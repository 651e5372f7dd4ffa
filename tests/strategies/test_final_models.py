"""The final models of runs that encrypt their posts: who gets them."""

from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord
from safetensors.torch import load_file

from flwr_decaf.config import Posts
from flwr_decaf.strategies import DLoRA
from tests.apps.drifting import drifting
from tests.keys import keyed_grid
from tests.local_grid import LocalGrid
from tests.states import lora_state
from tests.strategies.sealed_runs import (
    SEALED_POSTS,
    N,
    TamperingGrid,
    assert_same,
    plain,
    run,
)


class TestFinalModels:
    DISCLOSED = Posts(encryption="x25519", disclose_adapters=True)

    @pytest.mark.parametrize("posts", [SEALED_POSTS, Posts()])
    def test_nodes_write_their_own(self, posts, keys, tmp_path):
        grid = keyed_grid(drifting, keys, N) if posts.encrypted else LocalGrid(drifting, N)
        for place, node_id in enumerate(grid.ids):
            file = str(tmp_path / f"{place}.safetensors")
            grid.contexts[node_id].node_config["adapter-path"] = file
        run(DLoRA, grid, posts=posts)
        written = {place: load_file(tmp_path / f"{place}.safetensors") for place in range(N)}
        expected, _ = plain(DLoRA)
        for place, state in written.items():
            assert all(torch.equal(x, expected[place][name]) for name, x in state.items())
            assert state.keys() == expected[place].keys()

    def test_a_path_that_cannot_be_written_is_refused_at_the_roll_call(self, keys, tmp_path):
        grid = keyed_grid(drifting, keys, N)
        grid.contexts[grid.ids[1]].node_config["adapter-path"] = str(tmp_path / "none" / "a")
        with pytest.raises(RuntimeError, match="adapter-path must be a file in an existing folder"):
            run(DLoRA, grid)

    def test_they_are_sent_if_the_run_and_all_nodes_disclose_them(self, keys):
        grid = keyed_grid(drifting, keys, N, **{"posts-disclose-adapter": True})
        assert_same(run(DLoRA, grid, posts=self.DISCLOSED)[0], plain(DLoRA)[0])
        assert not run(DLoRA, grid)[0]

    def test_a_run_alone_cannot_disclose_them(self, keys):
        permitting = keyed_grid(drifting, keys, N, **{"posts-disclose-adapter": True})
        grid = keyed_grid(drifting, keys, N, TamperingGrid)
        with pytest.raises(
            RuntimeError, match="posts-disclose-adapter must be true .* at node 0, "
        ):
            run(DLoRA, grid, posts=self.DISCLOSED)
        relay = DLoRA(posts=self.DISCLOSED)
        relay.start(permitting, ArrayRecord(lora_state(0)), num_rounds=1)
        for context in permitting.contexts.values():  # a relay that asks all the same
            del context.node_config["posts-disclose-adapter"]
        with pytest.raises(RuntimeError, match="a node replied without its arrays"):
            relay.collect(permitting)
