"""The ClientApp's training: what a node keeps from one round to the next."""

from __future__ import annotations

import json
import time

import pytest

from flwr_decaf.app.node import receive
from flwr_decaf.app.training import slow_down, train_node
from flwr_decaf.messages import records
from flwr_decaf.messages.packing import unpack_record
from tests.app.test_node import adapter, context_of, message

__all__ = ["adapter"]


SHORT = {"train.local-steps": 1, "train.batch-size": 4}


def test_moments_are_kept_on_request_and_follow_the_basis_of_products(adapter):
    kept = {}
    for strategy in ("decaf", "dlora"):
        settings = json.dumps({"strategy": strategy, "train.optimizer-state": "kept", **SHORT})
        asked, context = message(adapter, settings=settings), context_of(1)
        node = receive(asked, context)

        def is_fresh(asked, server_round, context=context, node=node):
            later = node._replace(server_round=server_round)
            return train_node(asked, context, later)["optimizer-fresh"] == 1

        assert is_fresh(asked, 3)
        kept[strategy] = len(unpack_record(context.state[records.OPTIMIZER]))
        assert not is_fresh(asked, 4)
        assert is_fresh(asked, 6)  # the node was absent from round 5
        other = json.dumps({**json.loads(settings), "seed": 1})
        assert is_fresh(message(adapter, settings=other), 7)  # another run
    # Only those of DeCAF include the trained factors, from which the basis is found.
    assert 3 * kept["decaf"] == 4 * kept["dlora"]


def test_a_node_that_is_slowed_down_sleeps_after_its_steps(adapter):
    metrics, started = {"train-seconds": 0.02}, time.perf_counter()
    slow_down(metrics, 3.0)
    assert metrics["train-seconds"] == pytest.approx(0.06)
    assert time.perf_counter() - started >= 0.04
    asked = message(adapter, settings=json.dumps({"train.slowdown": "1, 3", **SHORT}))
    node, started = receive(asked, context_of(1)), time.perf_counter()
    seconds = train_node(asked, context_of(1), node)["train-seconds"]
    assert time.perf_counter() - started >= seconds


def test_nothing_is_kept_by_default(adapter):
    context = context_of(1)
    asked = message(adapter)
    metrics = train_node(asked, context, receive(asked, context))
    assert "optimizer-fresh" not in metrics
    assert not context.state
