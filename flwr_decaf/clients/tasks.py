"""Tasks: what a model, its batches and its scores are, by name.

Adding one: a file beside this one with a function ``build(model, lora, data) -> Task``, and a
line in ``registries.TASKS``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor

from flwr_decaf.clients.scores import Sums
from flwr_decaf.data.partitions import NodeData, node_data
from flwr_decaf.data.sources import fingerprint, load_rows
from flwr_decaf.registries import TASKS

if TYPE_CHECKING:
    from flwr_decaf.config import Data, Lora, Model

Batch = dict[str, Tensor]
Row = dict[str, Any]


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


def encoded(
    rows: Dataset, encode: Callable[[dict[str, list[Any]]], dict[str, Any]], *settings: object
) -> Dataset:
    """Encode rows in batches, once on this disk for all actors and later runs.

    Parameters
    ----------
    rows : Dataset
        As loaded; its columns give way to the encoded ones.
    encode : callable
        Columns of a batch -> encoded columns.
    *settings
        All that decides what ``encode`` makes of the rows.
    """
    name = repr((fingerprint(rows), settings)).encode()
    return rows.map(
        encode,
        batched=True,
        remove_columns=rows.column_names,
        new_fingerprint=hashlib.blake2b(name, digest_size=8).hexdigest(),
    )


def load_task(model: Model, lora: Lora, data: Data) -> Task:
    """Build a task once per process; every virtual client that the process runs shares it.

    How the data are split over the nodes makes no difference to it.

    The adapter's values are arbitrary: the server draws the first ones
    (``adapter.initialize_adapter``) and every message brings those to use.

    Raises
    ------
    ValueError
        In one line, if the model cannot be loaded or the adapter does not fit it.
    """
    return _build(model, lora, data.unsplit())


def forget_task() -> None:
    """Let go of the task that this process holds."""
    _build.cache_clear()


@lru_cache(maxsize=1)  # two large bases may not fit
def _build(model: Model, lora: Lora, data: Data) -> Task:
    if model.objective != "classification" and model.task != "clip":
        raise ValueError(
            f"model.objective must be classification with model.task = {model.task}; got "
            f"{model.objective!r}; it is for clip"
        )
    return TASKS[model.task](model, lora, data)


@lru_cache(maxsize=256)
def load_node_data(model: Model, lora: Lora, data: Data, seed: int, node: int, n: int) -> NodeData:
    """Load and encode a node's rows once per process; all nodes share one encoded test."""
    rows, task = node_data(data, node, n, seed), load_task(model, lora, data)
    return NodeData(
        train=task.encode(rows.train),
        local_test=task.encode(rows.local_test),
        test=load_test(model, lora, data, seed),
    )


def load_test(model: Model, lora: Lora, data: Data, seed: int) -> Dataset:
    """Load and encode the test rows common to all nodes, however the others are split."""
    return _encoded_test(model, lora, data.unsplit(), seed)


@lru_cache(maxsize=2)
def _encoded_test(model: Model, lora: Lora, data: Data, seed: int) -> Dataset:
    return load_task(model, lora, data).encode(load_rows(data, seed)["test"])
