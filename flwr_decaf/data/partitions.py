"""The rows of each node: its partition of the training rows, split into training and local test."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset
from flwr_datasets.partitioner import Partitioner

from flwr_decaf.data.labels import class_names
from flwr_decaf.data.partitioners import partitioner_for
from flwr_decaf.data.sources import load_rows, sample
from flwr_decaf.seeds import derive_seed

if TYPE_CHECKING:
    from flwr_decaf import config

NEED_CLASSES = ("stratified", "dirichlet", "pathological", "shards", "label-skew")


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
        Test rows common to all nodes; empty if there is no common test set.
    """

    train: Dataset
    local_test: Dataset
    test: Dataset

    @property
    def num_tested(self) -> int:
        """Number of rows that weights the scores: the common test rows or, without any, its own."""
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
    if data.partitioner in NEED_CLASSES and not data.label_column:
        raise ValueError(
            f"data.partitioner must be iid or natural if data.label-column is empty; got "
            f"{data.partitioner!r}; set data.label-column, or use iid"
        )
    partitioner = partitioner_for(rows, n, data, derive_seed(seed, "partition"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each retry of the Dirichlet draw would warn
            sizes = [len(partitioner.load_partition(node)) for node in range(n)]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"data.partitioner must give rows to every node; {data.partitioner!r} over {n} nodes "
            f"does not ({error}); increase data.alpha, or use fewer nodes or another partitioner"
        ) from error
    needed = 2 if data.local_test_share > 0 else 1
    if min(sizes) < needed:
        raise ValueError(
            f"data.partitioner must give every node at least {needed} rows (one is held out as its "
            f"local test); {data.partitioner!r} gives node {sizes.index(min(sizes))} "
            f"{min(sizes)}; use fewer nodes, another partitioner, or data.local-test-share=0"
        )
    return partitioner


@dataclass(frozen=True)
class Split:
    """The number of rows of each class at each node.

    Attributes
    ----------
    classes : list of str
        Names of the classes; only "rows" if there are none.
    counts : list of list of int
        Number of rows, by node and class.
    """

    classes: list[str]
    counts: list[list[int]]


@lru_cache(maxsize=4)  # the runs of a comparison often differ only in their strategy
def describe_split(data: config.Data, n: int, seed: int) -> Split:
    """Count the training rows of each class at each of n nodes, including those of its local test.

    Raises
    ------
    ValueError
        From ``partition_rows``.
    """
    partitioner = partition_rows(data, n, seed)
    parts = [partitioner.load_partition(node) for node in range(n)]
    if not data.label_column:
        return Split(["rows"], [[len(part)] for part in parts])
    classes = class_names(parts[0], data, needed_by="a split by classes")
    counts = [np.bincount(part["label"][:], minlength=len(classes)).tolist() for part in parts]
    return Split(classes, counts)


@lru_cache(maxsize=256)
def node_data(data: config.Data, node: int, n: int, seed: int) -> NodeData:
    """Return the rows of a node; cached, so that an actor splits each partition only once.

    See ``hold_out`` for the local test set.
    """
    rows = partition_rows(data, n, seed).load_partition(node)
    train, local_test = hold_out(rows, data.local_test_share, derive_seed(seed, "local test", node))
    return NodeData(
        train=train,
        local_test=sample(local_test, data.max_local_test_samples, seed=0),
        test=load_rows(data, seed)["test"],
    )


def hold_out(rows: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split a node's rows at random into training rows and a local test set.

    The local test set has a fraction ``share`` of the rows: at least one row unless the fraction is
    0, and never all of them.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    held_out = min(math.ceil(share * len(rows)), len(rows) - 1)
    return rows.select(order[held_out:]), rows.select(order[:held_out])
