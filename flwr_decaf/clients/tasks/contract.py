"""What every task is: a model, its batches and its scores.

Adding one: a file beside this one with a function ``build(model, lora, data) -> Task``, and a
line in ``registries.TASKS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor

from flwr_decaf.clients.tasks.scores import Sums
from flwr_decaf.data.encoding import Row

Batch = dict[str, Tensor]


def _own_loss(model: PeftModel, batch: Batch) -> Tensor:
    loss: Tensor = model(**batch).loss
    return loss


@dataclass(frozen=True)
class Task:
    """A model with its adapter, and the way from rows to batches to scores.

    Attributes
    ----------
    model : PeftModel
        Frozen base with a trainable adapter.
    encode : callable
        Rows as loaded -> rows that ``collate`` takes.
    collate : callable
        A list of encoded rows -> one batch, padded.
    length : callable
        Encoded rows -> a number for each, by which to sort them into batches of like length.
    tally : callable
        (model, some encoded rows, device) -> sums over these rows, to be added up over all.
    scores : callable
        Such sums -> scores by name; ``accuracy`` or ``perplexity`` among them.
    labels : tuple of str
        Names of the classes, by number; empty where there are none.
    loss : callable
        (model, batch) -> the training loss; the model's own unless given.
    """

    model: PeftModel
    encode: Callable[[Dataset], Dataset]
    collate: Callable[[list[Row]], Batch]
    length: Callable[[Dataset], list[int]]
    tally: Callable[[PeftModel, list[Row], torch.device], Sums]
    scores: Callable[[Sums], dict[str, float]]
    labels: tuple[str, ...] = ()
    loss: Callable[[PeftModel, Batch], Tensor] = _own_loss
