"""The apps as Flower's engines load them; their implementations are imported on first use.

The imports (torch, transformers, PEFT) take seconds. Flower's simulation loads both apps in one
process before it starts Ray; with lazy imports, it starts Ray immediately.
"""

from __future__ import annotations

from functools import lru_cache

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from flwr_decaf.app.quick_imports import quick_imports
from flwr_decaf.extras import require_app

server_app = ServerApp()
client_app = ClientApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Pass the run to ``server_app.app``."""
    require_app()
    with quick_imports():
        from flwr_decaf.app.server_app import app as real

    real(grid, context)


@client_app.train()
def train(msg: Message, context: Context) -> Message:
    """Pass a train message to ``client_app.app`` and its mods."""
    return _answer(msg, context)


@client_app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Pass an evaluate message to ``client_app.app`` and its mods."""
    return _answer(msg, context)


@client_app.query()
def query(msg: Message, context: Context) -> Message:
    """Pass a query to ``client_app.app`` and its mods."""
    return _answer(msg, context)


def _answer(msg: Message, context: Context) -> Message:
    return _real_client_app()(msg, context)


@lru_cache
def _real_client_app() -> ClientApp:
    with quick_imports():
        from flwr_decaf.app.client_app import app as real

    return real
