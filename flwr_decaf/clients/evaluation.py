"""Evaluation of a node: on the test set common to all nodes, and on its own held-out rows."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from datasets import Dataset

from flwr_decaf.clients.models.adapter import digest
from flwr_decaf.clients.tasks.contract import Task
from flwr_decaf.clients.training import evaluate_rows
from flwr_decaf.data.partitions import NodeData
from flwr_decaf.data.sources import fingerprint

if TYPE_CHECKING:
    from flwr_decaf.config import Train

_CACHE_SIZE = 1000  # scores, of a few hundred bytes each
_Scores = OrderedDict[tuple[str, str, int, str], dict[str, float]]
# Per task, so that they are freed with it.
_cache: WeakKeyDictionary[Task, _Scores] = WeakKeyDictionary()


def evaluate_node(task: Task, data: NodeData, train: Train) -> dict[str, float]:
    """Evaluate the current model.

    Parameters
    ----------
    task : Task
        A task whose model has the adapter to evaluate.
    data : NodeData
        Encoded rows of the node.
    train : config.Train
        Batch size and precision.

    Returns
    -------
    dict of str to float
        The task's scores on the common test set, those on the node's own held-out rows (if any)
        with the prefix ``local-``, and ``evaluate-seconds``.
    """
    started = time.perf_counter()
    held = digest(task.model)
    scores = _scored(task, data.test, train, held)
    local = _scored(task, data.local_test, train, held)
    return {
        **scores,
        **{f"local-{name}": value for name, value in local.items()},
        "evaluate-seconds": time.perf_counter() - started,
    }


def _scored(task: Task, rows: Dataset, train: Train, adapter_digest: str) -> dict[str, float]:
    # At the start of a run, and always with FedAvg, all nodes have the same adapter, so an actor
    # that has evaluated it for one node need not do so again.
    cached = _cache.setdefault(task, OrderedDict())
    key = (adapter_digest, fingerprint(rows), train.batch_size, train.precision)
    if key not in cached:
        cached[key] = evaluate_rows(task, rows, train)
        if len(cached) > _CACHE_SIZE:
            cached.popitem(last=False)
    return cached[key]
