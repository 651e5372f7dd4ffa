"""A node's scores: on the test common to all nodes, and on its own held-out rows."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING

from datasets import Dataset

from flwr_decaf.clients.adapter import digest
from flwr_decaf.clients.tasks import Task
from flwr_decaf.clients.training import evaluate_rows
from flwr_decaf.data.partitions import NodeData

if TYPE_CHECKING:
    from flwr_decaf.config import Train


def evaluate_node(task: Task, data: NodeData, train: Train) -> dict[str, float]:
    """Score what the model holds.

    Returns
    -------
    dict of str to float
        The task's scores on the common test, and as ``local-...`` on the node's own (if it holds
        rows out); ``evaluate-seconds``.
    """
    started = time.perf_counter()
    scores = _score_common_test(task, data.test, train, digest(task.model))
    local = evaluate_rows(task, data.local_test, train)
    return {
        **scores,
        **{f"local-{name}": value for name, value in local.items()},
        "evaluate-seconds": time.perf_counter() - started,
    }


@lru_cache(maxsize=1)
def _score_common_test(
    task: Task, rows: Dataset, train: Train, adapter_digest: str
) -> dict[str, float]:
    # At the start, and under FedAvg always, all nodes hold one and the same adapter: an actor that
    # scores it for one node need not do so again for the next.
    return evaluate_rows(task, rows, train)
