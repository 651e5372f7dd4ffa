"""The client side of DIMAT: matching of a task's hidden units on a node's own rows."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from datasets import Dataset
from peft import PeftModel

from flwr_decaf.clients.models.hardware import to_device
from flwr_decaf.clients.tasks.contract import Batch, Task
from flwr_decaf.data.sources import sample
from flwr_decaf.matching import Group, Matching, find_groups

if TYPE_CHECKING:
    from flwr_decaf.config import Dimat

_ROWS = 128  # rows in a batch

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


def matching_on(task: Task, rows: Dataset, dimat: Dimat, seed: int) -> Matching:
    """Prepare the matching of a task's hidden units on a node's rows.

    Parameters
    ----------
    task : Task
        A task whose whole model is trained.
    rows : Dataset
        Encoded rows of the node.
    dimat : config.Dimat
        Whether units are permuted, how many rows to compare them on, and when batch-norm
        statistics are recomputed.
    seed : int
        Seed for sampling the rows and for augmenting them.

    Raises
    ------
    ValueError
        If the task trains an adapter, the model has a layer that matching does not support, or
        there are no rows.
    """
    check_whole(task)
    torch.manual_seed(seed)  # for random augmentation
    rows = sample(rows, dimat.max_samples, seed)
    device = next(task.model.parameters()).device
    # Batch sizes differ by at most one, since batch-norm statistics are means over batches.
    parts = torch.arange(len(rows)).tensor_split(math.ceil(len(rows) / _ROWS)) if len(rows) else []
    batches = [_inputs(task, rows, part.tolist(), device) for part in parts]
    shapes = tuple((name, tuple(x.shape[1:])) for name, x in (batches or [{}])[0].items())
    permutes = dimat.matching != "none" and bool(batches)
    groups = _groups(task, shapes, device) if permutes else []
    resets_first = dimat.reset_batch_norm == "before-and-after"
    return Matching(task.model, groups, batches, resets_first)


def check_whole(task: Task) -> None:
    """Reject a task that trains an adapter.

    Raises
    ------
    ValueError
        If it does not train the whole model.
    """
    if isinstance(task.model, PeftModel):
        raise ValueError(
            "with strategy dimat, model.task must be one that trains the whole model; this one "
            "trains an adapter, whose units are aligned by the common base; set model.task to cnn, "
            "or use another strategy"
        )


def _inputs(task: Task, rows: Dataset, chosen: list[int], device: torch.device) -> Batch:
    batch = task.collate([rows[i] for i in chosen])
    return to_device({name: x for name, x in batch.items() if name != "labels"}, device)


@lru_cache(maxsize=2)
def _groups(task: Task, shapes: Shapes, device: torch.device) -> list[Group]:
    batch = {name: torch.zeros(2, *shape, device=device) for name, shape in shapes}
    return find_groups(task.model, batch)
