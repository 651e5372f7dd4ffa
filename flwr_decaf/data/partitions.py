"""Partitioning of rows over the nodes, by partitioners of flwr-datasets, and a node's splits."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset
from flwr_datasets.partitioner import (
    DirichletPartitioner,
    IidPartitioner,
    NaturalIdPartitioner,
    Partitioner,
    PathologicalPartitioner,
)

from flwr_decaf import registries
from flwr_decaf.data.sources import load_rows, sample
from flwr_decaf.registries import Registry
from flwr_decaf.seeds import derive_seed

if TYPE_CHECKING:
    from flwr_decaf import config

Partition = Callable[[Dataset, int, "config.Data", int], Partitioner]
PARTITIONERS: Registry[Partition] = Registry(registries.PARTITIONERS)
_NODE = "node"  # the column with the node of each row


def iid(rows: Dataset, n: int, data: config.Data, seed: int) -> Partitioner:
    """Distribute the shuffled rows evenly."""
    return _over(IidPartitioner(num_partitions=n), rows.shuffle(seed=seed))


def stratified(rows: Dataset, n: int, data: config.Data, seed: int) -> Partitioner:
    """Distribute the rows of every class evenly, as the IID setting of DeCAF (arXiv 2505.21382)."""
    order = np.random.default_rng(seed).permutation(len(rows))
    dealt = order[np.argsort(np.array(rows["label"][:])[order], kind="stable")]
    node_of = np.empty(len(rows), dtype=int)
    node_of[dealt] = np.arange(len(rows)) % n
    return _by_node(rows, node_of.tolist())


def dirichlet(rows: Dataset, n: int, data: config.Data, seed: int) -> Partitioner:
    """Draw the shares of each class from Dirichlet(alpha), with nodes of similar sizes."""
    smallest = max(2, min(10, len(rows) // (2 * n)))
    partitioner = DirichletPartitioner(
        num_partitions=n,
        partition_by="label",
        alpha=data.alpha,
        min_partition_size=smallest,
        self_balancing=True,
        seed=seed,
    )
    return _over(partitioner, rows)


def pathological(rows: Dataset, n: int, data: config.Data, seed: int) -> Partitioner:
    """Assign whole classes to single nodes; with more nodes than classes, nodes share a class."""
    classes = sorted(rows.unique("label"))
    if n > len(classes):
        partitioner = PathologicalPartitioner(
            num_partitions=n,
            partition_by="label",
            num_classes_per_partition=1,
            class_assignment_mode="deterministic",
            seed=seed,
        )
        return _over(partitioner, rows)
    order = np.random.default_rng(seed).permutation(len(classes))
    node_of = {classes[index]: place % n for place, index in enumerate(order)}
    return _by_node(rows, [node_of[label] for label in rows["label"][:]])


def label_skew(rows: Dataset, n: int, data: config.Data, seed: int) -> Partitioner:
    """Distribute each class over the nodes by a table, as in TAD-LoRA (arXiv 2602.00451).

    ``data.label-skew`` is the table as JSON, or the path of a JSON file: one row per node, one
    column per class, e.g. ``[[0.9, 0.1], [0.1, 0.9]]``. The rows of a class are distributed in
    proportion to its column.
    """
    table = _read_table(data.label_skew, n, classes=len(set(rows["label"][:])))
    rng = np.random.default_rng(seed)
    node_of = np.empty(len(rows), dtype=int)
    labels = np.array(rows["label"][:])
    for column, label in enumerate(sorted(set(labels.tolist()))):
        members = rng.permutation(np.flatnonzero(labels == label))
        bounds = np.cumsum(table[:, column] / table[:, column].sum()) * len(members)
        for node, part in enumerate(np.split(members, np.rint(bounds[:-1]).astype(int))):
            node_of[part] = node
    return _by_node(rows, node_of.tolist())


@dataclass(frozen=True)
class NodeData:
    """The rows of a node.

    Attributes
    ----------
    train : Dataset
        Rows to train on.
    local_test : Dataset
        Held-out rows of the node.
    test : Dataset
        Test rows common to all nodes; none if there is no common test.
    """

    train: Dataset
    local_test: Dataset
    test: Dataset

    @property
    def num_tested(self) -> int:
        """Number of rows by which scores are weighted: the common ones, or else the node's own."""
        return len(self.test) or len(self.local_test)


@lru_cache(maxsize=4)
def partition_rows(data: config.Data, n: int, seed: int) -> Partitioner:
    """Partition the training rows over n nodes.

    Raises
    ------
    ValueError
        If a node would have no rows, or the partitioner needs classes and there are none.
    """
    rows = load_rows(data, seed)["train"]
    if n > len(rows):
        raise ValueError(
            f"num-supernodes must be <= the number of training rows; got {n} nodes and {len(rows)} "
            "rows in data.name; use fewer nodes or more data"
        )
    if data.partitioner != "iid" and not data.label_column:
        raise ValueError(
            f"data.partitioner must be iid if data.label-column is empty; got "
            f"{data.partitioner!r}; set data.label-column, or use iid"
        )
    partitioner = PARTITIONERS[data.partitioner](rows, n, data, derive_seed(seed, "partition"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each retry of the Dirichlet draw would warn
            sizes = [len(partitioner.load_partition(node)) for node in range(n)]
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"data.partitioner must give rows to every node; {data.partitioner!r} over {n} nodes "
            f"does not ({error}); raise data.alpha, or use fewer nodes or another partitioner"
        ) from error
    needed = 2 if data.local_test_share > 0 else 1
    if min(sizes) < needed:
        raise ValueError(
            f"data.partitioner must give every node at least {needed} rows (one is held out as its "
            f"local test); {data.partitioner!r} gives node {sizes.index(min(sizes))} "
            f"{min(sizes)}; use fewer nodes, another partitioner, or data.local-test-share=0"
        )
    return partitioner


@lru_cache(maxsize=256)
def node_data(data: config.Data, node: int, n: int, seed: int) -> NodeData:
    """Return the rows of a node; cached, so that an actor splits each partition once.

    See ``hold_out`` for its local test.
    """
    rows = partition_rows(data, n, seed).load_partition(node)
    train, local_test = hold_out(rows, data.local_test_share, derive_seed(seed, "local test", node))
    return NodeData(
        train=train,
        local_test=sample(local_test, data.max_local_test_samples, seed=0),
        test=load_rows(data, seed)["test"],
    )


def hold_out(rows: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split a node's rows at random into those to train on and its local test.

    The local test has a fraction ``share`` of the rows: at least one row unless the fraction is 0,
    and never all.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    held_out = min(math.ceil(share * len(rows)), len(rows) - 1)
    return rows.select(order[held_out:]), rows.select(order[:held_out])


def _over(partitioner: Partitioner, rows: Dataset) -> Partitioner:
    partitioner.dataset = rows
    return partitioner


def _by_node(rows: Dataset, node_of: list[int]) -> Partitioner:
    # NaturalIdPartitioner numbers its partitions by sorted id, so node k is partition k.
    return _over(NaturalIdPartitioner(partition_by=_NODE), rows.add_column(_NODE, node_of))


def _read_table(text: str, n: int, classes: int) -> np.ndarray:
    try:
        source = text if text.lstrip().startswith("[") else Path(text).read_text(encoding="utf8")
        table = np.array(json.loads(source), dtype=float)
        usable = table.shape == (n, classes) and table.min() >= 0 and table.sum(axis=0).min() > 0
    except (OSError, ValueError) as error:
        raise ValueError(
            "data.label-skew must be a JSON table or the path of a file with one; got "
            f"{text!r} ({error}); write e.g. [[0.9, 0.1], [0.1, 0.9]]"
        ) from error
    if not usable:
        raise ValueError(
            "data.label-skew must have one row per node and one column per class, >= 0, and no "
            f"column of zeros; got shape {table.shape} for {n} nodes and {classes} classes; "
            "correct the table"
        )
    return table
