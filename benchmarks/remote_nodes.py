"""A Grid whose nodes run a ClientApp in another process, so that only the relay is measured.

Messages cross the boundary in the form in which they travel to a SuperLink, one at a time.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity

from flwr_decaf.messages.shared_posts import STORE_VARIABLE


class RemoteNodes(Grid):
    """Nodes 0 to n - 1 behind a pipe.

    Attributes
    ----------
    sent, received : list of int
        Bytes of every message to a node, and of every reply, since ``forget``.
    objects : list of int
        Number of objects into which Flower divides each message to a node, to send them one by one.
    seconds : float
        Processor time that the calls of this object took.
    """

    def __init__(self, pipe: Connection, n: int) -> None:
        self._pipe, self._n = pipe, n
        self.sent: list[int] = []
        self.objects: list[int] = []
        self.received: list[int] = []
        self.seconds = 0.0

    def forget(self) -> None:
        """Forget the messages so far."""
        self.sent, self.received, self.objects = [], [], []

    def get_node_ids(self) -> Iterable[int]:
        """Return all ids; that of node i is i + 1."""
        return range(1, self._n + 1)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send the messages in turn, and return the replies."""
        started = time.process_time()
        replies = [self._call(message) for message in messages]
        self.seconds += time.process_time() - started
        return replies

    def _call(self, message: Message) -> Message:
        written = message_to_proto(message).SerializeToString()
        self._pipe.send_bytes(written)
        reply = self._pipe.recv_bytes()
        self.sent.append(len(written))
        self.objects.append(len(get_all_nested_objects(message)))
        self.received.append(len(reply))
        return message_from_proto(ProtoMessage.FromString(reply))

    def set_run(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: there is only one run."""

    @property
    def run(self) -> Any:
        """Not used by strategies."""
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Not used by strategies."""
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not used by strategies."""
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Not used by strategies."""
        raise NotImplementedError


@contextmanager
def remote_nodes(client: str, n: int, store: Path) -> Iterator[RemoteNodes]:
    """Start n nodes that run a ClientApp of ``benchmarks.clients`` and post to a store."""
    _set_up()
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_answer, args=(there, client, n, store), daemon=True)
    process.start()
    there.close()
    try:
        yield RemoteNodes(here, n)
    finally:
        here.close()
        process.join()


def _answer(pipe: Connection, client: str, n: int, store: Path) -> None:
    _set_up()
    os.environ[STORE_VARIABLE] = str(store)
    app = getattr(importlib.import_module("benchmarks.clients"), client)
    places = ({"partition-id": place, "num-partitions": n} for place in range(n))
    contexts = {i: Context(0, i, place, RecordDict(), {}) for i, place in enumerate(places, 1)}
    while True:
        try:
            message = message_from_proto(ProtoMessage.FromString(pipe.recv_bytes()))
        except EOFError:
            return
        reply = app(message, contexts[message.metadata.dst_node_id])
        pipe.send_bytes(message_to_proto(reply).SerializeToString())


def _set_up() -> None:
    """Use one thread, and identify this process as Flower does, so that it can create messages."""
    torch.set_num_threads(1)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 0
