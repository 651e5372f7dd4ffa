"""FedAvg: Flower's own class, so that the baseline is the one that everybody knows."""

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flwr_strategy

from flwr_decaf.lora import size_in_bytes
from flwr_decaf.schedules import is_due


class FedAvg(flwr_strategy.FedAvg):
    """``flwr.serverapp.strategy.FedAvg``, evaluated in the rounds in which the peers are.

    Sampling, aggregation and messages are Flower's, untouched; only rounds in which no
    evaluation is due are left out of ``configure_evaluate``, and the nodes' metrics tell
    ``bytes-sent``: a node's upload and its download of the model.

    Parameters
    ----------
    evaluate_every : int
        Evaluate in each round that it divides, and in the last; 0 evaluates in none.
    num_rounds : int
        The last round.
    **options
        Flower's own; the minimum numbers of nodes are 1 here.
    """

    def __init__(self, evaluate_every: int, num_rounds: int, **options: Any) -> None:
        one = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
        super().__init__(**{**one, **options})
        self.evaluate_every = evaluate_every
        self.num_rounds = num_rounds

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate as Flower does."""
        received = list(replies)
        for reply in received:
            if not reply.has_error():
                arrays = next(iter(reply.content.array_records.values()))
                metrics = next(iter(reply.content.metric_records.values()))
                metrics["bytes-sent"] = self._bytes_carried(arrays)
        return super().aggregate_train(server_round, received)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluate as Flower does, in the rounds that are due."""
        if not is_due(server_round, self.evaluate_every, self.num_rounds):
            return []
        return super().configure_evaluate(server_round, arrays, config, grid)

    def _bytes_carried(self, arrays: ArrayRecord) -> int:
        return 2 * size_in_bytes(arrays.to_torch_state_dict())
