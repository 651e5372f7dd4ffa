"""A Grid that runs a real ClientApp in this process, one node after another, for quick tests.

It treats messages as Flower's engines do: each node has its own Context, its state changes only if
the call succeeds, and an exception becomes an error reply. Ray and ``flwr run`` have separate
tests.
"""

from __future__ import annotations

import copy
import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid


class LocalGrid(Grid):
    def __init__(
        self,
        app: ClientApp,
        n: int,
        node_config: Callable[[int], dict[str, int]] | None = None,
        arrivals: Sequence[int] = (),
    ) -> None:
        self.app = app
        self.ids = [7919 * (n - place) + 13 for place in range(n)]  # not in the partitions' order
        self._arrivals = list(arrivals)  # how many nodes the first looks see
        self.sent: list[Message] = []
        self.broken: set[int] = set()  # partitions whose next calls fail
        self.keeps_state_of_failed_calls = False  # as SuperNodes do
        self.gone: set[int] = set()  # partitions for which the SuperLink answers: no such node
        # Partitions whose next reply misses its timeout -> how many further calls of the node end
        # before the late one does, and writes its state back.
        self.late: dict[int, int] = {}
        self.away: set[int] = set()  # partitions whose nodes are not registered
        self.duration: Callable[[Message], float] = lambda message: 1.0  # of calls that are pushed
        self.now = 0.0
        self._numbers = itertools.count()
        self._under_way: list[tuple[float, int, str, Message]] = []
        self._at_work: dict[int, list[tuple[int, Context]]] = {}
        self._configure = node_config or (lambda i: {"partition-id": i, "num-partitions": n})
        self.contexts = {node_id: self._fresh(place) for place, node_id in enumerate(self.ids)}

    def _fresh(self, place: int) -> Context:
        return Context(0, self.ids[place], self._configure(place), RecordDict(), {})

    def leave(self, place: int) -> None:
        """End the SuperNode of a partition."""
        self.away.add(place)

    def join(self, place: int) -> None:
        """Start the SuperNode of a partition, with a new id and an empty memory."""
        self.away.discard(place)
        self.ids[place] += 3
        self.contexts[self.ids[place]] = self._fresh(place)

    def get_node_ids(self) -> Iterable[int]:
        seen = self._arrivals.pop(0) if self._arrivals else len(self.ids)
        return {node_id for i, node_id in enumerate(self.ids[:seen]) if i not in self.away}

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies = [self.call(message) for message in messages]
        return [reply for reply in replies if reply is not None]

    def call(self, message: Message) -> Message | None:
        """Run one call of a node, and return its reply, or nothing if it is late."""
        node_id = message.metadata.dst_node_id
        self.sent.append(message)
        if node_id not in self.ids or self.ids.index(node_id) in self.away:
            return self._unavailable(message)
        context = copy.deepcopy(self.contexts[node_id])
        arriving = copy.deepcopy(message)
        try:
            if context.node_config.get("partition-id") in self.broken:
                raise RuntimeError("broken on purpose")
            reply = self.app(arriving, context)
        except Exception as error:
            if self.keeps_state_of_failed_calls:
                self.contexts[node_id] = context
            reason = f"{type(error)}:<'{error}'>"  # as both of Flower's engines write it
            return Message(Error(code=2, reason=reason), reply_to=message)
        if context.node_config.get("partition-id") in self.gone:
            return self._unavailable(message)
        late = self.late.pop(self.ids.index(node_id), None)
        if late is None:
            self.contexts[node_id] = context
        self._end_late_calls(node_id)
        if late is not None:
            self._at_work.setdefault(node_id, []).append((late, context))
            self._end_late_calls(node_id, passed=0)
            return None
        return reply

    def _unavailable(self, message: Message) -> Message:
        reply = Message(Error(code=3, reason="node unavailable"), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = 1  # as Flower's LinkState does
        return reply

    def _end_late_calls(self, node_id: int, passed: int = 1) -> None:
        waiting = [(left - passed, context) for left, context in self._at_work.pop(node_id, [])]
        for _, context in (call for call in waiting if call[0] <= 0):
            self.contexts[node_id] = context
        self._at_work[node_id] = [call for call in waiting if call[0] > 0]

    def place_of(self, message: Message) -> int:
        return self.ids.index(message.metadata.dst_node_id)

    def mail_to(self, place: int) -> list[RecordDict]:
        return [m.content for m in self.sent if m.metadata.dst_node_id == self.ids[place]]

    def set_run(self, *args: object, **kwargs: object) -> None: ...

    @property
    def run(self): ...

    def create_message(self, *args, **kwargs): ...

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Let each call end after the time that ``duration`` gives to it."""
        numbers = []
        for message in messages:
            number = message.metadata.__dict__["_message_id"] = f"message-{next(self._numbers)}"
            ends = self.now + self.duration(message)
            heapq.heappush(self._under_way, (ends, len(number), number, message))
            numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Go on to the time at which the next calls end, and return their replies."""
        if not self._under_way:
            return []
        self.now, replies = self._under_way[0][0], []
        while self._under_way and self._under_way[0][0] <= self.now:
            replies.append(self.call(heapq.heappop(self._under_way)[-1]))
        return [reply for reply in replies if reply is not None]
