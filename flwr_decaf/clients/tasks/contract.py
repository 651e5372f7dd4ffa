"""The interface of a task: a model, its batches and its scores.

To add a task, write a file in this folder with a function ``build(model, lora, data) -> Task``, and
a line in ``registries.TASKS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn

from flwr_decaf.clients.models.frozen_prefix import FrozenPrefix
from flwr_decaf.clients.tasks.scores import Sums
from flwr_decaf.data.encoding import Row

Batch = dict[str, Tensor]


def _own_loss(model: PeftModel, batch: Batch) -> Tensor:
    loss: Tensor = model(**batch).loss
    return loss


@dataclass(frozen=True)
class Task:
    """A model with its adapter, and the functions from rows to batches to scores.

    Attributes
    ----------
    model : PeftModel
        Frozen base with a trainable adapter.
    encode : callable
        Rows as loaded -> encoded rows.
    collate : callable
        A list of encoded rows -> a padded batch.
    length : callable
        Encoded rows -> their lengths, by which they are sorted into batches of similar length.
    tally : callable
        (model, some encoded rows, device) -> sums over these rows, which are added up over batches.
    scores : callable
        Total sums -> scores by name, including ``accuracy`` or ``perplexity``.
    labels : tuple of str
        Names of the classes, by number; by default empty: no classes.
    loss : callable
        (model, batch) -> the training loss; by default the model's own.
    train_mode : callable
        Function that puts the model into training mode; by default all of it.
    prefixes : tuple of FrozenPrefix
        Frozen layers whose results are kept; by default none.
    """

    model: PeftModel
    encode: Callable[[Dataset], Dataset]
    collate: Callable[[list[Row]], Batch]
    length: Callable[[Dataset], list[int]]
    tally: Callable[[PeftModel, list[Row], torch.device], Sums]
    scores: Callable[[Sums], dict[str, float]]
    labels: tuple[str, ...] = ()
    loss: Callable[[PeftModel, Batch], Tensor] = _own_loss
    train_mode: Callable[[nn.Module], object] = nn.Module.train
    prefixes: tuple[FrozenPrefix, ...] = ()
