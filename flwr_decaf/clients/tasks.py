"""Tasks: what a model, its batches and its scores are, by name.

Adding one: a file beside this one with a function ``build(model, lora, data) -> Task``, and a
line in ``TASKS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from peft import PeftModel
from torch import Tensor

from flwr_decaf.data.partitions import NodeData, node_data
from flwr_decaf.data.sources import load_texts

if TYPE_CHECKING:
    from flwr_decaf.config import Data, Lora, Model

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """A model with its adapter, and the way from rows to batches to scores.

    Attributes
    ----------
    model : PeftModel
        Frozen base with a trainable adapter; ``model(**batch).loss`` is the training loss.
    encode : callable
        Rows as loaded -> rows that ``collate`` takes.
    collate : callable
        A list of encoded rows -> one batch, padded.
    length : callable
        Encoded rows -> a number for each, by which to sort them into batches of like length.
    score : callable
        (logits or other output, batch) -> number of rows that the model got right.
    labels : tuple of str
        Names of the classes, by number; empty where there are none.
    """

    model: PeftModel
    encode: Callable[[Dataset], Dataset]
    collate: Callable[[list[dict[str, Any]]], Batch]
    length: Callable[[Dataset], list[int]]
    score: Callable[[Any, Batch], int]
    labels: tuple[str, ...] = ()


def _text_classification(model: Model, lora: Lora, data: Data) -> Task:
    # Imported on demand: the registry of names must not load transformers.
    from flwr_decaf.clients.text_classification import build

    return build(model, lora, data)


TASKS: dict[str, Callable[[Model, Lora, Data], Task]] = {
    "text-classification": _text_classification,
}


@lru_cache(maxsize=2)
def load_task(model: Model, lora: Lora, data: Data) -> Task:
    """Build a task once per process; every virtual client that the process runs shares it.

    The adapter's values are arbitrary: the server draws the first ones
    (``adapter.initialize_adapter``) and every message brings those to use.

    Raises
    ------
    ValueError
        In one line, if the model cannot be loaded or the adapter does not fit it.
    """
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


@lru_cache(maxsize=2)
def load_test(model: Model, lora: Lora, data: Data, seed: int) -> Dataset:
    """Load and encode the test rows common to all nodes."""
    return load_task(model, lora, data).encode(load_texts(data, seed)["test"])
