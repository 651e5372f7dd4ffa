"""Resuming asynchronous rounds of DLoRA, on the nodes of test_asynchronous."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord

from flwr_decaf.messages.checkpoint import NodeProgress
from flwr_decaf.strategies import DLoRA
from tests.strategies.test_asynchronous import START, counting, grid_of, held_after, trained


def kept_by(grid, rounds, **options):
    """Return the checkpoints of a run, and what the nodes hold at its end."""
    kept = []
    held, *_ = held_after(grid, rounds, on_round=kept.append, **options)
    return kept, held


def test_checkpoints_are_made_after_as_many_trainings_as_there_are_nodes():
    # Node 0 trains at 1, 2, 3, 4, and node 1 at 2.5 and 5: two trainings at 2, four at 3, six at 5.
    kept, _ = kept_by(grid_of(1, 2.5), 4)
    rounds = [{i: node.server_round for i, node in c.progress.items()} for c in kept]
    assert [c.server_round for c in kept] == [1, 2, 3, 4]
    # All nodes have completed the run at the end, after the last mix.
    assert rounds == [{0: 2, 1: 0}, {0: 3, 1: 1}, {0: 4, 1: 2}, {}]
    # At 3, node 0 mixes the post of node 1, and its own new post has not been exchanged yet.
    assert kept[1].progress == {0: NodeProgress(3, 0.0, (1,), {}), 1: NodeProgress(1, 0.0, (), {})}


def test_a_resumed_node_mixes_what_it_has_exchanged():
    # At 1.5, node 1 posts for the first time, and mixes. Node 0 mixes when it posts in round 2.
    kept, whole = kept_by(grid_of(1, 1.5), 4)
    assert [*kept[0].progress[0].late] == [1]
    held, rows, _ = held_after(grid_of(0.5, 1.5), 4, resume_from=kept[0])
    assert next(row["staleness"] for row in rows["train"]) == 1
    np.testing.assert_allclose(held, whole)


def test_a_post_is_mixed_as_often_as_in_an_uninterrupted_run():
    kept, _ = kept_by(grid_of(1, 2.5), 4)
    # Both hold 0.5 at 3. Node 1 exchanges its next post for that of node 0, which is 0, and holds
    # 0.25 until it is done. Node 0 ends its round 4 at 10, holds 0.5 + 0.25, and both mix.
    grid = grid_of(10, 1)
    held, *_ = held_after(grid, 4, resume_from=kept[1])
    assert (trained(grid, 0), trained(grid, 1)) == ([4], [2, 3, 4])
    np.testing.assert_allclose(held, np.full((2, 2), 0.5))


@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"weighted_mixing": True}, {"weights": "metropolis-examples"}]
)
def test_equally_fast_nodes_repeat_the_run(n, stop, options):
    options = {"evaluate_every": 2, "topology": "ring", **options}
    grids = grid_of(*[1] * n), grid_of(*[1] * n)
    for grid in grids:
        grid.app = counting
    kept, whole = kept_by(grids[0], 4, **options)
    held, _, result = held_after(grids[1], 4, resume_from=kept[stop - 1], **options)
    np.testing.assert_array_equal(held, whole)
    assert trained(grids[1], 0) == list(range(stop + 1, 5))
    # A node that has posted in a round in which it is evaluated may not have been evaluated yet.
    assert sorted(result.evaluate_metrics_clientapp) == ([2, 4] if stop < 3 else [4])


def test_a_node_that_has_completed_its_rounds_is_only_called_for_the_last_mix():
    kept, _ = kept_by(grid_of(1, 2.5), 4, evaluate_every=2)
    grid = grid_of(1, 1)
    # Node 0 has trained 4 times, and node 1 twice; its evaluation may not have been completed.
    held, _, result = held_after(grid, 4, resume_from=kept[2], evaluate_every=2)
    assert (trained(grid, 0), trained(grid, 1)) == ([], [])
    assert sorted(result.evaluate_metrics_clientapp) == [2, 4]
    np.testing.assert_allclose(held, np.full((2, 2), 0.5))


def test_the_average_is_scored_at_the_end_only():
    kept, scored = [], []
    options = {"rounds": "asynchronous", "evaluate_every": 0}
    DLoRA("ring", on_round=kept.append, **options).start(
        grid_of(1, 2.5), ArrayRecord(START), num_rounds=4
    )

    def score(server_round, arrays):
        scored.append(server_round)
        return MetricRecord({"score": 1.0})

    again = DLoRA("ring", resume_from=kept[0], **options)
    result = again.start(grid_of(1, 1), ArrayRecord(START), num_rounds=4, evaluate_fn=score)
    assert scored == [4] == list(result.evaluate_metrics_serverapp)


@pytest.mark.parametrize(
    ("started", "resumed", "was"),
    [
        ("synchronous", "asynchronous", "synchronous"),
        ("asynchronous", "synchronous", "asynchronous"),
    ],
)
def test_the_rounds_must_be_those_of_the_checkpoint(started, resumed, was):
    kept = []
    DLoRA("ring", rounds=started, on_round=kept.append).start(
        grid_of(1, 1), ArrayRecord(START), num_rounds=2
    )
    again = DLoRA("ring", rounds=resumed, resume_from=kept[0])
    with pytest.raises(ValueError, match=f"rounds.mode must be {was} with a checkpoint"):
        again.start(grid_of(1, 1), ArrayRecord(START), num_rounds=2)


def test_a_run_that_lacks_only_its_end_resumes_there():
    kept = []
    options = {"rounds": "asynchronous", "evaluate_every": 0}
    once = DLoRA(nx.path_graph(2), on_round=kept.append, **options)
    grid = grid_of(1, 2.5)
    first = once.start(grid, ArrayRecord(START), num_rounds=4)
    again = DLoRA(nx.path_graph(2), resume_from=kept[-1], **options)
    rest = grid_of(1, 1)
    second = again.start(rest, ArrayRecord(START), num_rounds=4)
    assert second.arrays == first.arrays
    assert [state["x"].tolist() for state in again.collect(rest).values()] == [[0.5, 0.5]] * 2
