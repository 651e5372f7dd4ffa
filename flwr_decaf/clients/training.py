"""Local training and evaluation, the same for every task."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from datasets import Dataset
from torch.utils.data import DataLoader, RandomSampler

from flwr_decaf.clients.freezing import freeze_factors
from flwr_decaf.clients.hardware import autocast, loss_scaler, to_device
from flwr_decaf.clients.scores import Sums, add_up
from flwr_decaf.clients.tasks import Batch, Task
from flwr_decaf.seeds import derive_seed

if TYPE_CHECKING:
    from flwr_decaf.config import Train


def train_locally(
    task: Task, rows: Dataset, train: Train, trainable: str, seed: int
) -> dict[str, float]:
    """Take ``train.local_steps`` AdamW steps, or ``train.local_epochs`` passes, on a node's rows.

    The optimizer is new in each round: a node is stateless but for its adapter.

    Parameters
    ----------
    task : Task
        Its model holds the adapter to train.
    rows : Dataset
        Encoded rows. Batches are drawn in shuffled passes; a node with fewer rows than a batch
        trains on all of them.
    train : config.Train
        Learning rate, batch size, steps, precision.
    trainable : str
        LoRA factors that train: "AB", "A" or "B". Dense parameters of the adapter always do.
    seed : int
        Decides the batches and the dropout.

    Returns
    -------
    dict of str to float
        ``train-loss``, the mean over the steps, and ``train-seconds``.
    """
    started = time.perf_counter()
    freeze_factors(task.model, trainable, head=not train.freeze_head)
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=train.learning_rate, weight_decay=train.weight_decay
    )
    device = parameters[0].device
    torch.manual_seed(seed)
    task.model.train()
    losses: list[float] = []
    scaler = loss_scaler(device, train.precision)
    for batch in _training_batches(task, rows, train, seed):
        with autocast(device, train.precision):
            loss = task.loss(task.model, to_device(batch, device))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(scaler.scale(loss))
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    optimizer.zero_grad(set_to_none=True)
    return {
        "train-loss": sum(losses) / len(losses),
        "train-seconds": time.perf_counter() - started,
    }


@torch.no_grad()
def evaluate_rows(task: Task, rows: Dataset, train: Train) -> dict[str, float]:
    """Score the model on encoded rows, in batches of like length and ``train.precision``.

    Returns
    -------
    dict of str to float
        The task's scores over all rows; empty for no rows.
    """
    if not len(rows):
        return {}
    task.model.eval()
    device = next(task.model.parameters()).device
    parts: list[Sums] = []
    order = torch.tensor(task.length(rows)).argsort(stable=True).tolist()
    for start in range(0, len(order), train.batch_size):
        chosen = order[start : start + train.batch_size]
        with autocast(device, train.precision):
            parts.append(task.tally(task.model, [rows[i] for i in chosen], device))
    return task.scores(add_up(parts))


def _training_batches(task: Task, rows: Dataset, train: Train, seed: int) -> DataLoader[Batch]:
    size = min(train.batch_size, len(rows))
    drawn = len(rows) * train.local_epochs or size * train.local_steps
    generator = torch.Generator().manual_seed(derive_seed(seed, "batches"))
    sampler = RandomSampler(rows, num_samples=drawn, generator=generator)
    return DataLoader(rows, batch_size=size, sampler=sampler, collate_fn=task.collate)
