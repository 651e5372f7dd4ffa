"""What every decentralized strategy must satisfy with open membership."""

from __future__ import annotations

import pytest
import torch

from flwr_decaf.config import Membership
from tests.local_grid import LocalGrid
from tests.strategies.conformance import CASES, app_of, equal, plain, run

CLOSED = {"relay-sum", "gradient-tracking", "mixed-ranks"}  # they need all nodes from the start


@pytest.mark.parametrize("name", [name for name in CASES if name not in CLOSED])
class TestEveryStrategyWithOpenMembership:
    def test_nodes_hold_what_a_closed_run_gives_them_while_none_comes_or_goes(self, name):
        _, expected, *_ = plain(name)
        _, held, _ = run(name, options={"membership": "open"})
        assert all(equal(expected[node], state) for node, state in held.items())
        assert sorted(held) == sorted(expected)

    @pytest.mark.parametrize("dtype", ["fp32", "int8"])
    def test_a_resumed_run_gives_the_result_of_one_in_which_nodes_came_and_went(self, name, dtype):
        options = {"membership": Membership("open", quorum=3, leave_after=1)}
        grid, kept = LocalGrid(app_of(name), 4), {}
        grid.away.add(0)

        def come_and_go(reached):
            kept[reached.server_round] = reached
            {1: lambda: grid.join(0), 2: lambda: grid.leave(2)}.get(reached.server_round, int)()

        given = {"dtype": dtype, "options": options, "rounds": 5}
        _, whole, _ = run(name, grid=grid, on_round=come_and_go, **given)
        assert sorted(whole) == [0, 1, 3]
        assert all(torch.isfinite(x).all() for state in whole.values() for x in state.values())
        again = LocalGrid(app_of(name), 4)
        again.away.add(2)
        _, resumed, _ = run(name, grid=again, resume_from=kept[3], **given)
        assert all(equal(whole[node], resumed[node]) for node in (0, 1, 3))


@pytest.mark.parametrize("name", sorted(CLOSED))
def test_strategies_that_need_all_nodes_from_the_start_refuse_open_membership(name):
    with pytest.raises(ValueError, match="topology.membership must be closed with"):
        run(name, options={"membership": "open"})
