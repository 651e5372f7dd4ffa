"""Runs of DLoRA with open membership, in which nodes mix and do not train."""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import ArrayRecord, MetricRecord

from flwr_decaf.config import Membership
from flwr_decaf.strategies import DLoRA
from tests.apps.pure_mixing import app, start_value
from tests.local_grid import LocalGrid

START = {"x": torch.zeros(2, dtype=torch.float64)}
THIRD = 1 / 3
PATH_OF_3 = np.array([[2 * THIRD, THIRD, 0], [THIRD, THIRD, THIRD], [0, THIRD, 2 * THIRD]])


def starts(*places):
    return np.array([start_value(place).tolist() for place in places])


def away(n, *places, **options):
    grid = LocalGrid(app, n, **options)
    grid.away |= set(places)
    return grid


def run(grid, events=None, rounds=4, topology="path", resume_from=None, **options):
    """Run DLoRA; `events` are called after rounds. Return what nodes hold after each, the kept."""
    held, kept = {}, {}

    def after(checkpoint):
        kept[checkpoint.server_round] = checkpoint
        (events or {}).get(checkpoint.server_round, lambda: None)()

    def note(contents, weighted_by_key):
        metrics = [content["metrics"] for content in contents]
        held[len(held) + 1] = {m["partition-id"]: np.array(m["held"]) for m in metrics}
        return MetricRecord()

    membership = Membership("open", **{"quorum": 3, "leave_after": 1, **options})
    strategy = DLoRA(
        topology, membership=membership, on_round=after, resume_from=resume_from,
        evaluate_metrics_aggr_fn=note,
    )  # fmt: skip
    strategy.start(grid, ArrayRecord(START), num_rounds=rounds)
    return held, kept, strategy
