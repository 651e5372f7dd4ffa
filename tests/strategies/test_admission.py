"""Which nodes may join a run with open membership, or take a place in it, and what excludes it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from flwr.app import ArrayRecord

from flwr_decaf.config import Membership
from flwr_decaf.strategies import DeCAF, DLoRA, GradientTracking, RelaySum, TADLoRA
from tests.apps.pure_mixing import app
from tests.local_grid import LocalGrid
from tests.strategies.open_runs import START, away, run


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"num-partitions": 5}, "its partition-id must be from 0 to 3 and its num-partitions 4"),
        ({"partition-id": 4}, "its partition-id must be from 0 to 3 and its num-partitions 4"),
        ({"data-path": "/rows.csv"}, "node 3 must have data-path in its node-config if and only"),
    ],
)
def test_newcomers_that_do_not_fit_are_refused(changed, reason, caplog):
    def configure(place):
        own = {"partition-id": place, "num-partitions": 4}
        return {**own, **changed} if place == 3 else own

    grid = away(4, 3, node_config=configure)
    held, *_ = run(grid, {1: partial(grid.join, 3)}, rounds=3)
    assert sorted(held[3]) == [0, 1, 2]
    assert caplog.text.count(reason) == 1


def test_the_caller_can_refuse_newcomers(caplog):
    grid, asked = away(4, 3), []
    strategy = DLoRA(
        membership=Membership("open", quorum=3),
        on_join=lambda grid, nodes: asked.append(nodes) or dict.fromkeys(nodes, "no rows"),
        on_round=lambda reached: grid.join(3) if reached.server_round == 1 else None,
    )
    strategy.start(grid, ArrayRecord(START), num_rounds=3)
    assert asked == [{3: grid.ids[3]}]
    assert sorted(strategy.collect(grid)) == [0, 1, 2]
    assert "Node 3 is refused: no rows" in caplog.text


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (DLoRA, {"num_nodes": 3}, "must be closed with num_nodes, since a run starts with topolog"),
        (DLoRA, {"topology": np.eye(3)}, "must be closed with a given graph or matrix"),
        (DLoRA, {"mixing_steps": "period"}, "closed with mixing-steps = period, since a period"),
        (DLoRA, {"posts": {"encryption": "x25519"}}, "closed with posts.encryption, since a newc"),
        (DLoRA, {"sign_flipping": 1}, "closed with attack.sign-flipping, since its nodes"),
        (DLoRA, {"participation": [[0]]}, "closed with participation, since a schedule names"),
        (TADLoRA, {}, "closed with tad.phase-length = auto, since it follows from the number"),
        (DeCAF, {"ranks": [2, 4]}, r"closed with ranks \(lora.ranks\), since a newcomer starts"),
        (RelaySum, {}, "topology.membership must be closed with relay-sum"),
        (GradientTracking, {}, "topology.membership must be closed with gradient-tracking"),
    ],
)
def test_what_needs_to_know_all_nodes_is_refused(kind, options, message):
    posts = options.pop("posts", {})
    with pytest.raises(ValueError, match=message):
        kind(**options, **posts, membership="open")
    kind(**options, **posts)


@pytest.mark.parametrize("now", ["open", "closed"])
def test_membership_does_not_change_when_a_run_resumes(now):
    was = {"open": "closed", "closed": "open"}[now]
    kept = []
    start = partial(DLoRA, quorum=3)
    start(membership=was, on_round=kept.append).start(LocalGrid(app, 3), ArrayRecord(START), 1)
    with pytest.raises(ValueError, match=rf"must be that of the checkpoint, {was}; got {now}"):
        start(membership=now, resume_from=kept[0]).start(LocalGrid(app, 3), ArrayRecord(START), 2)
