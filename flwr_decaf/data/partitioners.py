"""How rows are partitioned over the nodes: partitioners of flwr-datasets, by name or class."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import flwr_datasets.partitioner as of_flower
import numpy as np
from datasets import Dataset
from flwr_datasets.partitioner import (
    DirichletPartitioner,
    IidPartitioner,
    NaturalIdPartitioner,
    Partitioner,
    PathologicalPartitioner,
    ShardPartitioner,
)

from flwr_decaf import registries
from flwr_decaf.data.sources import require_columns
from flwr_decaf.registries import Registry
from flwr_decaf.text import keyword_arguments

if TYPE_CHECKING:
    from flwr_decaf import config

Partition = Callable[[Dataset, int, "config.Data", int], Partitioner]
PARTITIONERS: Registry[Partition] = Registry(registries.PARTITIONERS)
_NODE = "node"  # the column with the node of each row


def partitioner_for(rows: Dataset, n: int, data: config.Data, seed: int) -> Partitioner:
    """Create the partitioner that ``data.partitioner`` names, over the rows.

    Parameters
    ----------
    rows : Dataset
        Rows with a column "label", if they have classes.
    n : int
        Number of nodes.
    data : config.Data
        ``partitioner`` is a name in ``registries.PARTITIONERS``, or a class of
        ``flwr_datasets.partitioner`` with the arguments ``partitioner_arguments``. If the class
        accepts them, ``num_partitions`` defaults to n, ``partition_by`` to the label, and ``seed``
        to ``seed``.
    seed : int
        Seed of random partitioners.

    Raises
    ------
    ValueError
        If there is no such class, or it does not accept the arguments.
    """
    if data.partitioner in PARTITIONERS:
        return PARTITIONERS[data.partitioner](rows, n, data, seed)
    kind, known = _class_named(data.partitioner), {"num_partitions": n, "partition_by": "label"}
    accepted = inspect.signature(kind).parameters
    defaults = {k: v for k, v in (known | {"seed": seed}).items() if k in accepted}
    try:
        return _over(kind(**defaults | keyword_arguments(data.partitioner_arguments)), rows)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"data.partitioner-arguments must be arguments of {data.partitioner}; got "
            f"{data.partitioner_arguments!r} ({error}); it accepts {', '.join(accepted)}"
        ) from error


def _class_named(name: str) -> type[Partitioner]:
    kinds = [kind for kind in of_flower.__all__ if kind != "Partitioner"]
    if name not in kinds:
        raise ValueError(
            f"data.partitioner must be one of {', '.join(PARTITIONERS)}, or a class of "
            f"flwr_datasets.partitioner: {', '.join(kinds)}; got {name!r}; choose one of these"
        )
    kind: type[Partitioner] = getattr(of_flower, name)
    return kind


def iid(rows: Dataset, n: int, data: config.Data, seed: int) -> Partitioner:
    """Distribute the shuffled rows evenly."""
    return _over(IidPartitioner(num_partitions=n), rows.shuffle(seed=seed))


def stratified(rows: Dataset, n: int, data: config.Data, seed: int) -> Partitioner:
    """Distribute the rows of each class evenly, as in DeCAF's IID setting (arXiv 2505.21382)."""
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


def shards(rows: Dataset, n: int, data: config.Data, seed: int) -> Partitioner:
    """Sort the rows by class, cut them into shards, and assign ``data.shards-per-node`` to a node.

    This is the non-IID setting of FedAvg (McMahan et al. 2017), in which two shards mostly contain
    two classes. Up to ``n * data.shards-per-node - 1`` rows are omitted, so that all shards have
    the same size.
    """
    partitioner = ShardPartitioner(
        num_partitions=n,
        partition_by="label",
        num_shards_per_partition=data.shards_per_node,
        seed=seed,
    )
    return _over(partitioner, rows)


def natural(rows: Dataset, n: int, data: config.Data, seed: int) -> Partitioner:
    """Assign all rows with the same value in ``data.partition-column`` to the same node.

    If there are more values than nodes, each node has several, drawn at random.

    Raises
    ------
    ValueError
        If there is no such column, or it has fewer values than there are nodes.
    """
    require_columns("data.partition-column", [data.partition_column], rows, data)
    values = rows[data.partition_column][:]
    distinct = sorted(set(values), key=str)
    if len(distinct) < n:
        raise ValueError(
            f"data.partition-column must have a value for each node; {data.partition_column!r} has "
            f"{len(distinct)} for {n} nodes; use at most {len(distinct)} nodes"
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    node_of = {distinct[index]: place % n for place, index in enumerate(order)}
    return _by_node(rows, [node_of[value] for value in values])


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
