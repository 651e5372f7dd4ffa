"""What every decentralized strategy must satisfy with encrypted posts."""

from __future__ import annotations

import pytest

from flwr_decaf.config import Posts
from tests.keys import keyed_grid, models_of
from tests.strategies.conformance import CASES, app_of, equal, plain, run


@pytest.mark.parametrize("name", [name for name in CASES if name != "relay-sum"])  # it refuses
class TestEveryStrategyWithEncryptedPosts:
    @pytest.mark.parametrize("n", [1, 4])
    def test_nodes_hold_what_readable_posts_give_them(self, name, n, tmp_path):
        grid = keyed_grid(app_of(name), tmp_path / "keys", n)
        result, states, _ = run(name, grid=grid, options={"posts": Posts(encryption="x25519")})
        assert not states
        assert not result.arrays
        _, expected, *_ = plain(name, n=n)
        assert all(equal(expected[node], state) for node, state in models_of(grid).items())
