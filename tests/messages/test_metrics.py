from __future__ import annotations

import pytest
from flwr.app import MetricRecord, RecordDict

from flwr_decaf.messages.metrics import mean_metrics


def record(**values):
    return RecordDict({"metrics": MetricRecord(values)})


def test_metrics_are_weighted_by_examples():
    records = [record(n=1, acc=0.0, parts=[1.0, 0.0]), record(n=3, acc=1.0, parts=[0.0, 1.0])]
    assert dict(mean_metrics(records, "n")) == {"acc": 0.75, "parts": [0.25, 0.75]}


def test_metrics_that_some_node_lacks_are_left_out():
    assert dict(mean_metrics([record(n=1, a=1.0, b=2.0), record(n=1, a=3.0)], "n")) == {"a": 2.0}


def test_metrics_without_a_weight_are_refused():
    with pytest.raises(ValueError, match="every reply must report 'n'"):
        mean_metrics([record(acc=1.0)], "n")
