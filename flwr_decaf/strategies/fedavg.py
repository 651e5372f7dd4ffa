"""FedAvg: Flower's own class, so that the baseline is the one that everybody knows."""

from collections.abc import Iterable
from functools import partial
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flwr_strategy
from flwr.serverapp.strategy import Result

from flwr_decaf.lora import size_in_bytes
from flwr_decaf.messages.checkpoint import Checkpoint
from flwr_decaf.messages.packing import pack, unpack
from flwr_decaf.strategies.relay.attendance import FailureLog, OnFailure, check_failures
from flwr_decaf.strategies.relay.replies import cause_of
from flwr_decaf.strategies.relay.resuming import (
    Keep,
    Score,
    counting_on,
    forget,
    rounds_left,
    run_rounds,
)
from flwr_decaf.strategies.relay.schedules import is_due
from flwr_decaf.topology.participation import check_fraction, draw_evaluated

_GLOBAL = 0  # whose post the global model is, in a checkpoint


class FedAvg(flwr_strategy.FedAvg):
    """``flwr.serverapp.strategy.FedAvg``, evaluated in the rounds in which the peers are.

    Sampling, aggregation and messages are Flower's, untouched; only rounds in which no
    evaluation is due are left out of ``configure_evaluate``, and the nodes' metrics tell
    ``bytes-sent``: a node's upload and its download of the model.

    Parameters
    ----------
    evaluate_every : int
        Evaluate in each round that it divides, and in the last; 0 evaluates in none.
    evaluate_fraction, seed
        As in ``DecentralizedStrategy``: the nodes are those that peers are evaluated on.
    num_rounds : int
        The last round.
    resume_from : Checkpoint, optional
        Where to go on; its only post is the global model.
    on_round : callable
        Called with a ``Checkpoint`` after each complete round.
    max_failures, on_failure
        As in ``DecentralizedStrategy``; nodes that failed are known by their Flower ids here.
    **options
        Flower's own; the minimum numbers of nodes are 1 here.
    """

    def __init__(  # noqa: PLR0913 - an argument a setting
        self,
        evaluate_every: int,
        num_rounds: int,
        resume_from: Checkpoint | None = None,
        on_round: Keep = forget,
        max_failures: int | None = None,
        on_failure: OnFailure = lambda server_round, node, cause: None,
        evaluate_fraction: float = 1.0,
        seed: int = 0,
        **options: Any,
    ) -> None:
        one = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
        super().__init__(**{**one, **options})
        self.evaluate_every = evaluate_every
        self.evaluate_fraction = check_fraction(evaluate_fraction)
        self.seed = seed
        self.num_rounds = num_rounds
        self.resume_from = resume_from
        self.done = resume_from.server_round if resume_from else 0
        self.on_round = on_round
        self.max_failures = max_failures
        self.on_failure = on_failure
        self._failures = FailureLog()
        self._place: dict[int, int] = {}  # of the nodes that have answered

    def start(  # noqa: PLR0913 - Flower's signature
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Score | None = None,
    ) -> Result:
        """Run the rounds that are left as Flower does.

        Raises
        ------
        ValueError
            If the checkpoint is of a later round than ``num_rounds``.
        """
        left = rounds_left(num_rounds, self.done)
        if self.resume_from:
            initial_arrays = ArrayRecord(unpack(self.resume_from.posts[_GLOBAL]))
        rounds = partial(
            super().start,
            grid,
            initial_arrays,
            timeout=timeout,
            train_config=train_config,
            evaluate_config=evaluate_config,
        )
        result = run_rounds(rounds, left, self.done, evaluate_fn)
        self._failures.summarize()
        result.arrays = result.arrays or initial_arrays  # no round was left
        self._keep(num_rounds, result.arrays)
        return result

    @counting_on
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Train as Flower does."""
        if server_round > self.done + 1:
            self._keep(server_round - 1, arrays)
        return super().configure_train(server_round, arrays, config, grid)

    @counting_on
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate as Flower does, in the order of the partitions: else bits vary."""
        received = self._checked(server_round, replies)
        for reply in received:
            if not reply.has_error():
                arrays = next(iter(reply.content.array_records.values()))
                metrics = next(iter(reply.content.metric_records.values()))
                metrics["bytes-sent"] = self._bytes_carried(arrays)
        return super().aggregate_train(server_round, received)

    @counting_on
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluate as Flower does, in the rounds that are due, on all nodes or some."""
        if not is_due(server_round, self.evaluate_every, self.num_rounds):
            return []
        asked = list(super().configure_evaluate(server_round, arrays, config, grid))
        known, share = sorted(self._place.values()), self.evaluate_fraction
        if share == 1 or len(asked) == 1:
            return asked
        chosen = draw_evaluated(server_round, known, share, self.num_rounds, self.seed)
        return [message for message in asked if self._place.get(_receiver(message)) in chosen]

    @counting_on
    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Aggregate as Flower does, in the rounds that are due."""
        if not is_due(server_round, self.evaluate_every, self.num_rounds):
            return None
        return super().aggregate_evaluate(server_round, self._checked(server_round, replies))

    def _checked(self, server_round: int, replies: Iterable[Message]) -> list[Message]:
        """Put replies into the order of the partitions, and stop if too many failed.

        Flower's own goes on with whoever is left, and ends successfully with nobody.
        """
        received = sorted(replies, key=_partition)
        causes = {
            reply.metadata.src_node_id: cause_of(reply) for reply in received if reply.has_error()
        }
        self._place |= {
            reply.metadata.src_node_id: _partition(reply)
            for reply in received
            if not reply.has_error()
        }
        for node_id, cause in causes.items():
            self._failures.note(server_round, node_id, cause)
            self.on_failure(server_round, node_id, cause)
        asked = max(len(received), 1)
        tolerated = asked // 2 if self.max_failures is None else self.max_failures
        if not received:
            causes[0] = "no reply in time"
        check_failures(server_round, causes, asked, tolerated)
        return received

    def _keep(self, server_round: int, arrays: ArrayRecord) -> None:
        self.on_round(Checkpoint(server_round, {_GLOBAL: pack(arrays.to_torch_state_dict())}))

    def _bytes_carried(self, arrays: ArrayRecord) -> int:
        return 2 * size_in_bytes(arrays.to_torch_state_dict())


def _receiver(message: Message) -> int:
    return message.metadata.dst_node_id


def _partition(reply: Message) -> int:
    if reply.has_error():
        return -1
    metrics = next(iter(reply.content.metric_records.values()), MetricRecord())
    return cast(int, metrics.get("partition-id", -1))
