"""FedAvg: Flower's own class, so that the baseline is the one that everybody knows."""

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flwr_strategy

from flwr_decaf.schedules import is_due


class FedAvg(flwr_strategy.FedAvg):
    """``flwr.serverapp.strategy.FedAvg``, evaluated in the rounds in which the peers are.

    Sampling, aggregation and messages are Flower's, untouched; only rounds in which no
    evaluation is due are left out of ``configure_evaluate``.

    Parameters
    ----------
    evaluate_every : int
        Evaluate in each round that it divides, and in the last; 0 evaluates in none.
    num_rounds : int
        The last round.
    **options
        Flower's own.
    """

    def __init__(self, evaluate_every: int, num_rounds: int, **options: Any) -> None:
        super().__init__(**options)
        self.evaluate_every = evaluate_every
        self.num_rounds = num_rounds

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluate as Flower does, in the rounds that are due."""
        if not is_due(server_round, self.evaluate_every, self.num_rounds):
            return []
        return super().configure_evaluate(server_round, arrays, config, grid)
