"""FedAvg: Flower's own class, as a baseline."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flwr_strategy
from flwr.serverapp.strategy import Result

from flwr_decaf.config import Evaluation, Failures, Posts
from flwr_decaf.lora import State, size_in_bytes
from flwr_decaf.messages.checkpoint import Checkpoint
from flwr_decaf.messages.packing import pack, unpack
from flwr_decaf.messages.quantization import dequantize, quantize
from flwr_decaf.seeds import derive_seed
from flwr_decaf.strategies.relay.arguments import fields_of, read_options
from flwr_decaf.strategies.relay.failures import FailureLog, OnFailure, check_any_replied
from flwr_decaf.strategies.relay.replies import cause_of
from flwr_decaf.strategies.relay.resumable import ResumableStrategy, Start
from flwr_decaf.strategies.relay.resuming import Resume, counting_on
from flwr_decaf.strategies.relay.schedules import is_due
from flwr_decaf.topology.participation import draw_evaluated

_GLOBAL = 0  # position of the global model in a checkpoint


class FedAvg(ResumableStrategy, flwr_strategy.FedAvg):
    """``flwr.serverapp.strategy.FedAvg``, evaluated in the same rounds as decentralized strategies.

    Sampling, aggregation and messages are Flower's own. ``configure_evaluate`` is skipped in rounds
    without an evaluation, and the nodes' metrics also include ``bytes-sent``, the size of the
    model's upload and download.

    Parameters
    ----------
    num_rounds : int
        The last round.
    seed : int
        Seed for drawing the nodes that are evaluated; by default 0.
    posts : Posts or str, optional
        How the model is quantized on the way to the nodes and back, as in
        ``DecentralizedStrategy``; by default not at all. Since any ClientApp must be able to read
        the arrays in Flower's messages, the server rounds the values in both directions and sends
        them in their original dtype: nodes train on, and the server averages, what quantized
        messages would contain, and ``bytes-sent`` is the size that these would have. All nodes
        receive the same rounded values. The server keeps the average without rounding: checkpoints
        and the result contain it, and each way down rounds it anew.
    evaluation, failures, resume : optional
        ``Evaluation``, ``Failures`` (without retries) and ``Resume``, as in
        ``DecentralizedStrategy``: the same nodes are evaluated, and the only post in a checkpoint
        is the global model.
    positions : mapping of int to int, optional
        Flower's node id -> position of the node; by default empty. Positions are also learned from
        the ``partition-id`` in the nodes' metrics.
    on_failure : callable
        Function that is called with the round, node and cause of each failure; by default it does
        nothing. The node is given by its position or, as long as that is unknown, by Flower's node
        id.
    **options
        Fields of the option objects, e.g. ``evaluate_every=5``, and arguments of Flower's own
        class, whose minimum numbers of nodes are 1 by default.
    """

    def __init__(  # noqa: PLR0913 - an argument for each option object
        self,
        *,
        num_rounds: int,
        seed: int = 0,
        evaluation: Evaluation | None = None,
        failures: Failures | None = None,
        posts: Posts | str | None = None,
        resume: Resume | None = None,
        positions: Mapping[int, int] | None = None,
        on_failure: OnFailure = lambda server_round, node, cause: None,
        **options: Any,
    ) -> None:
        given: dict[str, object] = {"evaluation": evaluation, "failures": failures}
        given |= {"posts": posts, "resume": resume}
        read = read_options(given, options)
        self.evaluation: Evaluation = read["evaluation"]
        self.failures: Failures = read["failures"]
        self.posts: Posts = _readable(read["posts"])
        self.resume: Resume = read["resume"]
        one = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
        own = fields_of(given)
        of_flower = {name: value for name, value in options.items() if name not in own}
        super().__init__(**{**one, **of_flower})
        self.seed = seed
        self.num_rounds = num_rounds
        self.positions = dict(positions or {})
        self.on_failure = on_failure
        self._start_anew()

    def _start_anew(self) -> None:
        self._failures = FailureLog(self.on_failure)
        self._place = dict(self.positions)  # by Flower's ids
        self._asked: set[int] = set()  # Flower's ids of the nodes that were called last

    def _begin(self, start: Start) -> ArrayRecord:
        self._start_anew()
        if self.resume.resume_from:
            return ArrayRecord(unpack(self.resume.resume_from.posts[_GLOBAL]))
        return start.initial_arrays

    def _end(self, start: Start, result: Result) -> None:
        self._failures.summarize()
        if self.resume.done == start.num_rounds:  # no round remained
            result.arrays = self._begin(start)
        self._keep(start.num_rounds, result.arrays)

    @counting_on
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure training as Flower does."""
        if server_round > self.resume.done + 1:
            self._keep(server_round - 1, arrays)
        sent = self._sent(arrays, server_round - 1)
        return self._note_asked(super().configure_train(server_round, sent, config, grid))

    @counting_on
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate as Flower does, in the order of the partitions, for reproducible results."""
        received = self._checked(server_round, replies)
        for reply in received:
            if not reply.has_error():
                key, arrays = next(iter(reply.content.array_records.items()))
                metrics = next(iter(reply.content.metric_records.values()))
                sender = self._node(_sender(reply))
                reply.content[key], size = self._carried(arrays, server_round, sender)
                metrics["bytes-sent"] = 2 * size  # both ways
        return super().aggregate_train(server_round, received)

    @counting_on
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure evaluation as Flower does, in the rounds that are due, on all nodes or some."""
        if not is_due(server_round, self.evaluation.evaluate_every, self.num_rounds):
            return []
        sent = self._sent(arrays, server_round)  # as the next training receives it
        asked = list(super().configure_evaluate(server_round, sent, config, grid))
        known, share = sorted(self._place.values()), self.evaluation.evaluate_fraction
        if share == 1 or len(asked) == 1 or not known:
            return self._note_asked(asked)
        chosen = draw_evaluated(server_round, known, share, self.num_rounds, self.seed)
        return self._note_asked(m for m in asked if self._place.get(_receiver(m)) in chosen)

    @counting_on
    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Aggregate as Flower does, in the rounds that are due."""
        if not is_due(server_round, self.evaluation.evaluate_every, self.num_rounds):
            return None
        return super().aggregate_evaluate(server_round, self._checked(server_round, replies))

    def _checked(self, server_round: int, replies: Iterable[Message]) -> list[Message]:
        """Sort replies by partition, and stop the run if too many nodes failed.

        Flower's own class continues with the remaining nodes, and succeeds even without any.
        """
        received = sorted(replies, key=_partition)
        placed = {_sender(reply): _partition(reply) for reply in received if not reply.has_error()}
        self._place |= {node_id: place for node_id, place in placed.items() if place >= 0}
        errors = {_sender(reply): cause_of(reply) for reply in received if reply.has_error()}
        # The SuperLink replies for nodes that are gone, without their ids.
        unnamed = [cause for node_id, cause in errors.items() if node_id not in self._asked]
        silence = unnamed[0] if unnamed else "no reply in time"
        absent = sorted(self._asked - placed.keys(), key=self._node)
        causes = {self._node(node_id): errors.get(node_id, silence) for node_id in absent}
        asked = {self._node(node_id) for node_id in self._asked}
        if not asked:
            asked, causes = {0}, {0: "no node was there to be called"}
        # Failures are counted over the whole round, although an evaluation may call only some
        # nodes.
        n = max(len(asked), len(self._place))
        self._failures.note_missing(server_round, causes, n, self.failures.tolerated(n))
        check_any_replied(server_round, causes, asked)
        return received

    def _node(self, node_id: int) -> int:
        return self._place.get(node_id, node_id)

    def _note_asked(self, messages: Iterable[Message]) -> list[Message]:
        noted = list(messages)
        self._asked = {_receiver(message) for message in noted}
        return noted

    def _keep(self, server_round: int, arrays: ArrayRecord) -> None:
        self.resume.on_round(
            Checkpoint(server_round, {_GLOBAL: pack(arrays.to_torch_state_dict())})
        )

    def _sent(self, arrays: ArrayRecord, server_round: int) -> ArrayRecord:
        """Return what messages to the nodes carry, without reading arrays that stay as they are."""
        if self.posts.dtype == "fp32":
            return arrays
        return self._carried(arrays, server_round)[0]

    def _carried(self, arrays: ArrayRecord, *sender: int) -> tuple[ArrayRecord, int]:
        """Return what a message carries, and its bytes; ``sender`` is a round, then any node."""
        state: State = dict(arrays.to_torch_state_dict())
        if self.posts.dtype == "fp32":
            return arrays, size_in_bytes(state)
        seed = derive_seed(self.seed, "rounding", *sender)
        posted = quantize(state, self.posts.dtype, seed)
        rounded = dequantize(posted, self.posts.dtype, like=state)
        return ArrayRecord(rounded), len(pack(posted).data)


def _readable(posts: Posts) -> Posts:
    if posts.encrypted:
        raise ValueError(
            "posts.encryption must be none with fedavg and centralized, whose server reads what "
            f"nodes send; got {posts.encryption}; omit it, or use a strategy such as dlora"
        )
    if posts.energy < 1.0:
        raise ValueError(
            "posts.energy must be 1 with fedavg and centralized, which average factors; got "
            f"{posts.energy}; omit it, or use decaf"
        )
    return posts


def _receiver(message: Message) -> int:
    return message.metadata.dst_node_id


def _sender(reply: Message) -> int:
    return reply.metadata.src_node_id


def _partition(reply: Message) -> int:
    if reply.has_error():
        return -1
    metrics = next(iter(reply.content.metric_records.values()), MetricRecord())
    return cast(int, metrics.get("partition-id", -1))
