"""Metrics of replies: those of one node, and their average over the nodes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from flwr_decaf.messages.records import NOT_KEPT

_LONGEST = 200  # characters of a cause


def mean_metrics(records: list[RecordDict], weighted_by_key: str) -> MetricRecord:
    """Average the metrics of all nodes, weighted by one of them.

    The signature is that of Flower's ``train_metrics_aggr_fn`` and ``evaluate_metrics_aggr_fn``.
    Keys that some node does not report are left out.

    Raises
    ------
    ValueError
        If a node does not report ``weighted_by_key``.
    """
    metrics = [metrics_of(content) for content in records]
    counts = counts_of(records, weighted_by_key)
    weights = counts / counts.sum() if counts.sum() > 0 else np.full(len(counts), 1 / len(counts))
    shared = [key for key in metrics[0] if all(key in metric for metric in metrics)]
    averaged = MetricRecord()
    for key in shared:
        if key != weighted_by_key:
            values = np.array([metric[key] for metric in metrics], dtype=float)
            averaged[key] = np.tensordot(weights, values, axes=1).tolist()
    return averaged


def counts_of(records: Iterable[RecordDict], weighted_by_key: str) -> NDArray[np.float64]:
    """Return the number of examples, or another weight, that each reply reports.

    Raises
    ------
    ValueError
        If a node does not report it.
    """
    metrics = [metrics_of(content) for content in records]
    if any(weighted_by_key not in metric for metric in metrics):
        raise ValueError(
            f"every reply must report {weighted_by_key!r}, by which nodes are weighted; add it "
            "to the MetricRecord that your train and evaluate functions return, or pass the "
            "strategy the metric that they report as weighted_by_key"
        )
    return np.array([metric[weighted_by_key] for metric in metrics], dtype=float)


def bad_counts(contents: Mapping[int, RecordDict], weighted_by_key: str) -> dict[int, str]:
    """Find the nodes whose reported number of examples cannot be a weight, with the cause.

    Raises
    ------
    ValueError
        If a node does not report it.
    """
    counts = counts_of(contents.values(), weighted_by_key)
    return {
        node: f"its {weighted_by_key!r} must be a finite number >= 0; got {count:g}"
        for node, count in zip(contents, counts.tolist(), strict=True)
        if not (math.isfinite(count) and count >= 0)
    }


def metrics_of(content: RecordDict) -> MetricRecord:
    """Merge all MetricRecords of a reply into one; Flower expects exactly one."""
    merged = MetricRecord()
    for record in content.metric_records.values():
        for key, value in record.items():
            merged[key] = value
    return merged


def why_not_kept(content: RecordDict) -> str:
    """Read from a reply why the node keeps no hidden states; empty if it keeps them.

    The text comes from a node and is shown in a terminal, so it is shortened, and unprintable
    characters are removed.
    """
    cause = content.config_records.get(NOT_KEPT, ConfigRecord()).get("cause", "")
    return "".join(filter(str.isprintable, str(cause)))[:_LONGEST]
