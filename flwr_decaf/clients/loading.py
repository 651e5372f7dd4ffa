"""Loading of a task and of a node's rows, once per process."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from datasets import Dataset

from flwr_decaf import registries
from flwr_decaf.clients.prefixes import with_prefixes
from flwr_decaf.clients.tasks.contract import Task
from flwr_decaf.data.columns import check_columns
from flwr_decaf.data.own_files import OwnFiles
from flwr_decaf.data.own_rows import own_data
from flwr_decaf.data.partitions import NodeData, node_data
from flwr_decaf.data.sources import load_rows
from flwr_decaf.registries import Registry

if TYPE_CHECKING:
    from flwr_decaf.config import Data, Lora, Model

TASKS: Registry[Callable[[Model, Lora, Data], Task]] = Registry(registries.TASKS)


def load_task(model: Model, lora: Lora, data: Data) -> Task:
    """Build a task once per process; all virtual clients of the process share it.

    The task does not depend on the data's partition. The values of its adapter are arbitrary: the
    server draws the initial values (``adapter.initialize_adapter``), and every message contains
    those to use.

    Raises
    ------
    ValueError
        If the model cannot be loaded or the adapter does not fit it.
    """
    return _build(model, lora, data.unsplit())


def forget_task() -> None:
    """Release the task that this process has loaded."""
    _build.cache_clear()


@lru_cache(maxsize=1)  # two large bases may not fit
def _build(model: Model, lora: Lora, data: Data) -> Task:
    if model.objective != "classification" and model.task != "clip":
        raise ValueError(
            f"model.objective must be classification with model.task = {model.task}; got "
            f"{model.objective!r}, which is for clip; set model.objective to classification"
        )
    if data.name:  # otherwise only the nodes have rows, and each node checks its own
        check_columns(model, data, load_rows(data, seed=0)["train"])
    return with_prefixes(TASKS[model.task](model, lora, data), model, data)


@lru_cache(maxsize=256)
def load_node_data(model: Model, lora: Lora, data: Data, seed: int, node: int, n: int) -> NodeData:
    """Load and encode a node's rows once per process; all nodes share the encoded test set."""
    return _encoded(node_data(data, node, n, seed), model, lora, data, seed)


@lru_cache(maxsize=256)
def load_own_data(
    model: Model, lora: Lora, data: Data, seed: int, node: int, files: OwnFiles
) -> NodeData:
    """Load and encode the rows of a node that has its own, once per process."""
    return _encoded(own_data(data, files, node, seed), model, lora, data, seed)


def _encoded(rows: NodeData, model: Model, lora: Lora, data: Data, seed: int) -> NodeData:
    task = load_task(model, lora, data)
    return NodeData(
        train=task.encode(rows.train),
        local_test=task.encode(rows.local_test),
        test=load_test(model, lora, data, seed),
    )


def load_test(model: Model, lora: Lora, data: Data, seed: int) -> Dataset:
    """Load and encode the test rows common to all nodes, which do not depend on the partition."""
    return _encoded_test(model, lora, data.unsplit(), seed)


@lru_cache(maxsize=2)
def _encoded_test(model: Model, lora: Lora, data: Data, seed: int) -> Dataset:
    return load_task(model, lora, data).encode(load_rows(data, seed)["test"])
