"""The ClientApp as Flower's engines load it: the real one is imported with the first message.

That import takes seconds (torch, transformers, PEFT). Flower's simulation loads the ClientApp
before it starts Ray, in the process of the ServerApp; like this it starts Ray at once.
"""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Hand a train message to ``client_app.app``, mods and all."""
    return _answer(msg, context)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Hand an evaluate message to ``client_app.app``, mods and all."""
    return _answer(msg, context)


def _answer(msg: Message, context: Context) -> Message:
    from flwr_decaf.client_app import app as real

    return real(msg, context)
