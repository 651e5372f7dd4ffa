"""A node's scores: on the test common to all nodes, and on its own held-out rows."""

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

_KEPT = 1000  # scores, of a few hundred bytes each
_Scores = OrderedDict[tuple[str, str, int, str], dict[str, float]]
# Of each task, so that they go with it.
_known: WeakKeyDictionary[Task, _Scores] = WeakKeyDictionary()


def evaluate_node(task: Task, data: NodeData, train: Train) -> dict[str, float]:
    """Score what the model holds.

    Returns
    -------
    dict of str to float
        The task's scores on the common test, and as ``local-...`` on the node's own (if it holds
        rows out); ``evaluate-seconds``.
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
    # At the start of every run with one seed, and under FedAvg always, all nodes hold one and the
    # same adapter: an actor that has scored it for one node need not do so again.
    known = _known.setdefault(task, OrderedDict())
    key = (adapter_digest, fingerprint(rows), train.batch_size, train.precision)
    if key not in known:
        known[key] = evaluate_rows(task, rows, train)
        if len(known) > _KEPT:
            known.popitem(last=False)
    return known[key]
