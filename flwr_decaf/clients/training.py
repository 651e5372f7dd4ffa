"""Local training and evaluation, the same for every task."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING

import torch
from datasets import Dataset
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from flwr_decaf.clients.learning_rate import LEARNING_RATES
from flwr_decaf.clients.models.hardware import LossScaling, autocast
from flwr_decaf.clients.optimizer_state import OptimizerState
from flwr_decaf.clients.passes import from_own_start, shuffled_passes
from flwr_decaf.clients.steps import UNSCALED, take_steps
from flwr_decaf.clients.tasks.contract import Batch, Task
from flwr_decaf.clients.tasks.scores import Sums, add_up
from flwr_decaf.seeds import derive_seed

if TYPE_CHECKING:
    from flwr_decaf.config import Train


def train_locally(  # noqa: PLR0913 - everything that a round depends on
    task: Task,
    rows: Dataset,
    train: Train,
    trainable: str,
    seed: int,
    server_round: int = 1,
    rounds: int = 1,
    scaling: LossScaling = UNSCALED,
    moments: OptimizerState | None = None,
) -> dict[str, float]:
    """Train for ``train.local_steps`` optimizer steps, or ``train.local_epochs`` epochs.

    Each round has a new optimizer, to which the moments of the last one can be passed.

    Parameters
    ----------
    task : Task
        A task whose model has the adapter to train.
    rows : Dataset
        Encoded rows. Batches are taken from shuffled passes over the rows, which continue from
        round to round, so that all rows are used equally often. A node with fewer rows than a batch
        trains on all of them in each step.
    train : config.Train
        Optimizer, learning rate and its schedule, batch size, steps, precision.
    trainable : str
        The LoRA factors to train: "AB", "A" or "B". Dense parameters of the adapter are trained
        unless ``train.freeze_head`` is true.
    seed : int
        The node's seed, which determines batches and dropout together with the round.
    server_round : int
        The round, by default 1, which determines the position in the passes and in the schedule.
    rounds : int
        Number of rounds of the run, by default 1, for ``train.schedule``.
    scaling : LossScaling
        The state of loss scaling after the node's last round, by default the initial one.
    moments : OptimizerState, optional
        Moments of the node's last round, which are updated to those of this one; by default they
        start afresh.

    Returns
    -------
    dict of str to float
        ``train-loss``, the mean over the steps, and ``train-seconds``; in fp16 also
        ``skipped-steps``, and ``loss-scale`` and ``growth-tracker`` for the next round; with
        ``moments``, ``optimizer-fresh``, which is 1 if there were none and 0 otherwise.

    Raises
    ------
    RuntimeError
        If all steps were skipped, so that nothing was trained.
    """
    started = time.perf_counter()
    torch.manual_seed(derive_seed(seed, "dropout", server_round))
    batches = training_batches(task, rows, train, seed, server_round)

    metrics = {} if moments is None else {"optimizer-fresh": float(moments.is_fresh)}
    optimizers: list[Optimizer] = []

    def schedule(optimizer: Optimizer) -> LRScheduler:
        optimizers.append(optimizer)
        if moments:
            moments.restore(optimizer, task.model)
        steps = math.ceil(len(batches) / train.gradient_accumulation)
        return LEARNING_RATES[train.schedule](
            optimizer, server_round, rounds, steps, train.warmup_steps
        )

    steps = take_steps(task, batches, train, trainable, scaling, schedule)
    taken = steps.taken - steps.skipped
    metrics |= {"train-loss": sum(steps.losses) / len(steps.losses)}
    if steps.scaling:
        if not taken:
            raise RuntimeError(
                "train.precision must allow at least one step per round; with fp16, all "
                f"{steps.skipped} were skipped, since gradients overflowed down to a loss scale of "
                f"{steps.scaling.scale:g}; set train.precision (and model.dtype, if it is fp16) "
                "to bf16 or fp32, or increase train.local-steps"
            )
        metrics |= {"skipped-steps": steps.skipped, "loss-scale": steps.scaling.scale}
        metrics["growth-tracker"] = steps.scaling.growth_tracker
    if moments:
        moments.store(optimizers[0], task.model)
    return metrics | {"train-seconds": time.perf_counter() - started}


@torch.no_grad()
def evaluate_rows(task: Task, rows: Dataset, train: Train) -> dict[str, float]:
    """Evaluate the model on encoded rows, in batches of similar length.

    Parameters
    ----------
    task : Task
        A task whose model has the adapter to evaluate.
    rows : Dataset
        Encoded rows.
    train : config.Train
        Batch size and precision.

    Returns
    -------
    dict of str to float
        The task's scores over all rows; empty if there are none.
    """
    if not len(rows):
        return {}
    task.model.eval()
    device = next(task.model.parameters()).device
    parts: dict[int, Sums] = {}
    order = torch.tensor(task.length(rows)).argsort(stable=True).tolist()
    starts = range(0, len(order), train.batch_size)
    for start in from_own_start(starts, os.getpid()):
        chosen = order[start : start + train.batch_size]
        with autocast(device, train.precision):
            parts[start] = task.tally(task.model, rows.__getitems__(chosen), device)
    # Added in the same order in every process, so that rounding is the same.
    return task.scores(add_up(parts[start] for start in starts))


def training_batches(
    task: Task, rows: Dataset, train: Train, seed: int, server_round: int
) -> DataLoader[Batch]:
    """Return the batches on which a node trains in a round.

    Parameters
    ----------
    task : Task
        A task whose ``collate`` makes the batches.
    rows : Dataset
        Encoded rows of the node.
    train : config.Train
        ``batch_size``, and ``local_epochs`` or ``local_steps``.
    seed : int
        Seed of the order of the rows: see ``shuffled_passes``.
    server_round : int
        The round, from 1; each round continues where the last one ended.
    """
    size = min(train.batch_size, len(rows))
    per_round = size * train.gradient_accumulation * train.local_steps
    drawn = len(rows) * train.local_epochs or per_round
    order = shuffled_passes(len(rows), (server_round - 1) * drawn, drawn, seed)
    return DataLoader(rows, batch_size=size, sampler=order, collate_fn=task.collate)
