"""Metrics of a round whose replies arrive one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from flwr.app import MetricRecord, RecordDict

from flwr_decaf.messages.metrics import mean_metrics, metrics_of

Aggregate = Callable[[list[RecordDict], str], MetricRecord]


class RoundMetrics:
    """Pass each reply to a metrics aggregation function, and average what it returns by rounds.

    Parameters
    ----------
    aggregate : callable
        As Flower's ``train_metrics_aggr_fn``; it is called with one reply at a time.
    weighted_by_key : str
        Metric that weights the nodes.
    """

    def __init__(self, aggregate: Aggregate, weighted_by_key: str) -> None:
        self._aggregate = aggregate
        self._key = weighted_by_key
        self._rounds: dict[int, list[RecordDict]] = {}

    def add(self, server_round: int, content: RecordDict) -> None:
        """Add the reply of a node to its round."""
        weight = cast(float, metrics_of(content).get(self._key, 1.0))
        averaged = MetricRecord({**self._aggregate([content], self._key), self._key: weight})
        self._rounds.setdefault(server_round, []).append(RecordDict({"metrics": averaged}))

    def averages(self) -> dict[int, MetricRecord]:
        """Return the average of each round over the nodes that have completed it."""
        rounds = sorted(self._rounds.items())
        return {number: mean_metrics(records, self._key) for number, records in rounds}
