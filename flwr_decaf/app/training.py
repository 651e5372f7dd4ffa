"""How the ClientApp trains a node: pretraining if it is due, otherwise optimizer steps."""

from __future__ import annotations

import time

from flwr.app import Context, Message

from flwr_decaf.app.node import Node, settings_sent
from flwr_decaf.clients import pretraining
from flwr_decaf.clients.optimizer_state import OptimizerState, kept_by
from flwr_decaf.clients.training import train_locally
from flwr_decaf.rules import FACTORIZING
from flwr_decaf.seeds import derive_seed
from flwr_decaf.strategies import STRATEGIES, FedAvg


def train_node(msg: Message, context: Context, node: Node) -> dict[str, float]:
    """Train the model of a node on the node's own rows, according to the settings of the run.

    Parameters
    ----------
    msg : Message
        The train message.
    context : Context
        The node's context, which stores the moments if ``train.optimizer-state = "kept"``.
    node : Node
        The node, from ``receive``; its model changes in place.

    Returns
    -------
    dict of str to float
        Metrics of the training.
    """
    config, task, rows = node.config, node.task, node.data.train
    if pretraining.needs_pretraining(task, config.train, config.seed):
        # FedAvg has one global model, so it needs a common initialization; others draw their own.
        if not issubclass(STRATEGIES[config.strategy], FedAvg):
            pretraining.draw_own_start(task, config.seed, node.position)
        own_seed = derive_seed(config.seed, "pretraining", node.position)
        return pretraining.pretrain(task, rows, config.train, own_seed, config.data.augmentation)
    moments = _kept_moments(msg, context, node)
    metrics = train_locally(
        task,
        rows,
        config.train,
        trainable=node.trainable,
        seed=derive_seed(config.seed, "train", node.position),
        server_round=node.server_round,
        rounds=config.num_server_rounds,
        scaling=node.scaling,
        moments=moments,
    )
    if moments:
        moments.keep(context, node.server_round, settings_sent(msg))
    slow_down(metrics, config.train.slowdown_of(node.position))
    return metrics


def slow_down(metrics: dict[str, float], factor: float) -> None:
    """Sleep until the training has taken ``factor`` times as long, for studies of slow nodes."""
    more = (factor - 1) * metrics["train-seconds"]
    time.sleep(more)
    metrics["train-seconds"] += more


def _kept_moments(msg: Message, context: Context, node: Node) -> OptimizerState | None:
    """Return the node's optimizer moments, or None if they start afresh in each round."""
    config = node.config
    if config.train.optimizer_state == "fresh":
        return None
    # A robust rule may mix products too.
    rule = getattr(STRATEGIES[config.strategy], "rule", "")
    rotates = rule in FACTORIZING or config.robust.method != "none"
    return kept_by(context, node.server_round, settings_sent(msg), rotates)
