"""The ClientApp: ordinary Flower functions that train and evaluate an adapter, and the mod.

The functions do not depend on peers; FedAvg uses the same ones.
"""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from flwr_decaf.app.node import describe_rows, matching, receive, reply
from flwr_decaf.app.training import train_node
from flwr_decaf.clients import peer_mixing_with
from flwr_decaf.clients.evaluation import evaluate_node

app = ClientApp(mods=[peer_mixing_with(matching)])
app.query()(describe_rows)


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the adapter in the message on the rows of this node, and send it back."""
    node = receive(msg, context)
    metrics = train_node(msg, context, node)
    return reply(msg, node, len(node.data.train), metrics, trained=True)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the adapter in the message on the common test set and on the node's own."""
    node = receive(msg, context)
    metrics = evaluate_node(node.task, node.data, node.config.train)
    return reply(msg, node, node.data.num_tested, metrics)
