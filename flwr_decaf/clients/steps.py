"""Optimizer steps on batches, the same for every task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from flwr_decaf.clients.freezing import freeze_factors
from flwr_decaf.clients.models.checkpointing import checkpoint_gradients
from flwr_decaf.clients.models.hardware import (
    LossScaling,
    autocast,
    computes_in_fp16,
    loss_scaler,
    scaling_of,
    to_device,
)
from flwr_decaf.clients.optimizers import create_optimizer
from flwr_decaf.clients.passes import grouped
from flwr_decaf.clients.tasks.contract import Batch, Task

if TYPE_CHECKING:
    from flwr_decaf.config import Train

UNSCALED = LossScaling()  # the state before the first step


class Steps(NamedTuple):
    """The result of some optimizer steps.

    Attributes
    ----------
    losses : list of float
        The loss of each batch, before its step.
    taken : int
        Number of optimizer steps, including those that were skipped.
    skipped : int
        Number of steps that loss scaling skipped because fp16 gradients overflowed.
    scaling : LossScaling or None
        The state of loss scaling after the last step; None without fp16.
    """

    losses: list[float]
    taken: int
    skipped: int
    scaling: LossScaling | None


def take_steps(
    task: Task,
    batches: Iterable[Batch],
    train: Train,
    trainable: str,
    scaling: LossScaling = UNSCALED,
    schedule: Callable[[Optimizer], LRScheduler] | None = None,
) -> Steps:
    """Take an optimizer step on each batch, or on each ``train.gradient_accumulation`` batches.

    Gradients are averaged over the batches of a step, and then clipped.

    Parameters
    ----------
    task, train, trainable, scaling
        See ``training.train_locally``.
    batches : iterable of Batch
        Batches on any device; each is moved to the model's.
    schedule : callable, optional
        Optimizer -> learning-rate scheduler; by default, the rate is constant.

    Returns
    -------
    Steps
        Losses, skipped steps, and the state of loss scaling.
    """
    freeze_factors(task.model, trainable, head=not train.freeze_head)
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    optimizer = create_optimizer(parameters, train)
    scheduler = schedule(optimizer) if schedule else None
    device, in_fp16 = parameters[0].device, computes_in_fp16(task.model, train.precision)
    scaler = loss_scaler(device, scaling, enabled=in_fp16)
    task.train_mode(task.model)
    checkpoint_gradients(task.model, train.gradient_checkpointing)
    losses: list[float] = []
    taken = skipped = 0
    for together in grouped(batches, train.gradient_accumulation):
        optimizer.zero_grad(set_to_none=True)
        for batch in together:
            with autocast(device, train.precision):
                loss = task.loss(task.model, to_device(batch, device))
            torch.autograd.backward(scaler.scale(loss / len(together)))
            losses.append(loss.item())
        if train.max_grad_norm:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, train.max_grad_norm)
        scaler.step(optimizer)
        taken += 1
        scale = scaler.get_scale()
        scaler.update()
        if scaler.get_scale() < scale:
            skipped += 1
        elif scheduler:
            scheduler.step()
    optimizer.zero_grad(set_to_none=True)
    return Steps(losses, taken, skipped, scaling_of(scaler) if in_fp16 else None)
