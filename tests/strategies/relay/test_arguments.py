"""FedAvg's arguments, given to a decentralized strategy."""

from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord

from flwr_decaf.config import Evaluation
from flwr_decaf.strategies import DLoRA, TADLoRA
from tests.apps.pure_mixing import app
from tests.local_grid import LocalGrid

START = ArrayRecord({"x": torch.zeros(2, dtype=torch.float64)})


def evaluations(strategy, n=4, rounds=3):
    grid = LocalGrid(app, n)
    strategy.start(grid, START, num_rounds=rounds)
    return [
        message.content["config"]["server-round"]
        for message in grid.sent
        if message.metadata.message_type == "evaluate" and "config" in message.content
    ]


@pytest.mark.parametrize("strategy", [DLoRA, TADLoRA])
def test_arguments_with_the_same_meaning_on_a_graph_are_accepted(strategy):
    chosen = strategy(fraction_train=1.0, fraction_evaluate=1.0, min_train_nodes=2)
    assert chosen.evaluation == Evaluation(evaluate_every=1, evaluate_fraction=1.0)


def test_fraction_evaluate_is_the_share_of_nodes_that_are_evaluated():
    assert evaluations(DLoRA("ring", fraction_evaluate=0.5)) == [1] * 2 + [2] * 2 + [3] * 4
    assert evaluations(DLoRA("ring", fraction_evaluate=0.0)) == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"fraction_train": 0.5}, r"fraction_train must be 1.0; got 0.5; .* drop_probability"),
        ({"fraction_evaluate": 1.5}, "fraction_evaluate must be > 0 and <= 1; got 1.5"),
        ({"fraction_evaluate": "all"}, "fraction_evaluate must be a number .*; got 'all'"),
        ({"min_train_nodes": 2.0}, "min_train_nodes must be a whole number; got 2.0"),
    ],
)
def test_arguments_without_meaning_on_a_graph_are_refused_with_the_remedy(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        DLoRA("ring", **arguments)


def test_an_unknown_argument_is_refused_with_a_list_of_the_known_ones():
    with pytest.raises(TypeError, match="no argument 'server_learning_rate'; known are topology,"):
        DLoRA("ring", server_learning_rate=0.5)


@pytest.mark.parametrize("name", ["min_train_nodes", "min_evaluate_nodes", "min_available_nodes"])
def test_a_minimum_is_checked_as_soon_as_the_nodes_have_registered(name):
    evaluations(DLoRA("ring", **{name: 4}))
    with pytest.raises(ValueError, match=f"{name}.*at most the number of nodes, 4; got 5;"):
        evaluations(DLoRA("ring", **{name: 5}))
