"""The ClientApp: ordinary Flower functions that train and evaluate an adapter, and the mod.

The functions do not depend on peers; FedAvg uses the same ones.
"""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from flwr_decaf.app.node import (
    describe_rows,
    keep_moments,
    kept_moments,
    load_node,
    receive,
    reply,
)
from flwr_decaf.clients import peer_mixing_with, pretraining
from flwr_decaf.clients.evaluation import evaluate_node
from flwr_decaf.clients.node_matching import matching_on
from flwr_decaf.clients.training import train_locally
from flwr_decaf.matching import Matching
from flwr_decaf.seeds import derive_seed
from flwr_decaf.strategies import STRATEGIES, FedAvg


def matching(msg: Message, context: Context) -> Matching:
    """Prepare DIMAT's matching on the rows of this node."""
    node = load_node(msg, context)
    # Independent of the round: posts arrive with its evaluation or with the next training.
    seed = derive_seed(node.config.seed, "matching", node.position)
    return matching_on(node.task, node.data.train, node.config.dimat, seed)


app = ClientApp(mods=[peer_mixing_with(matching)])
app.query()(describe_rows)


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the adapter in the message on the rows of this node, and send it back."""
    node = receive(msg, context)
    config, task, rows = node.config, node.task, node.data.train
    if pretraining.needs_pretraining(task, config.train, config.seed):
        # FedAvg needs a common start, since there is one global model; others start on their own.
        if not issubclass(STRATEGIES[config.strategy], FedAvg):
            pretraining.draw_own_start(task, config.seed, node.position)
        own_seed = derive_seed(config.seed, "pretraining", node.position)
        metrics = pretraining.pretrain(task, rows, config.train, own_seed, config.data.augmentation)
    else:
        kept = kept_moments(msg, context, node)
        metrics = train_locally(
            task,
            rows,
            config.train,
            trainable=node.trainable,
            seed=derive_seed(config.seed, "train", node.position),
            server_round=node.server_round,
            rounds=config.num_server_rounds,
            scaling=node.scaling,
            moments=kept,
        )
        keep_moments(msg, context, node, kept)
    return reply(msg, node, len(rows), metrics, trained=True)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the adapter in the message on the common test set and on the node's own."""
    node = receive(msg, context)
    metrics = evaluate_node(node.task, node.data, node.config.train)
    return reply(msg, node, node.data.num_tested, metrics)
