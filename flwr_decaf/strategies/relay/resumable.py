"""The ``start`` method that all strategies of this package share: it runs the remaining rounds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from flwr_decaf.strategies.relay.resuming import (
    Resume,
    Score,
    count_results_on,
    rounds_left,
    scoring_on,
)

TIMEOUT = 3600.0  # seconds; Flower's own default


@dataclass(frozen=True)
class Start:
    """Arguments of ``start`` that a strategy needs in a run.

    If a subclass has its own ``start``, only the first two are known.

    Attributes
    ----------
    grid : Grid
        Flower's connection to the nodes.
    initial_arrays : ArrayRecord
        Arrays that every node starts from.
    num_rounds : int
        The last round of the whole run; by default 0: unknown.
    timeout : float
        Seconds to wait for replies; by default 3600.
    train_config : ConfigRecord
        Settings of the train messages; by default empty.
    scores_arrays : bool
        Whether the arrays of every round are scored, as by an ``evaluate_fn``, and not only those
        of the last; by default True.
    """

    grid: Grid
    initial_arrays: ArrayRecord
    num_rounds: int = 0
    timeout: float = TIMEOUT
    train_config: ConfigRecord = field(default_factory=ConfigRecord)
    scores_arrays: bool = True


class ResumableStrategy(Strategy):
    """A Flower strategy that can resume: its rounds keep their numbers in the whole run.

    Attributes
    ----------
    resume : Resume
        Checkpoint to resume from, and a function that is called after each round.
    """

    resume: Resume

    @abstractmethod
    def _begin(self, start: Start) -> ArrayRecord:
        """Prepare the rounds, and return the arrays that they start from."""

    @abstractmethod
    def _end(self, start: Start, result: Result) -> None:
        """Complete the result of the rounds, and keep the last checkpoint."""

    def _run_rounds(
        self, start: Start, arrays: ArrayRecord, evaluate_config: ConfigRecord, score: Score | None
    ) -> Result:
        """Run the remaining rounds, with Flower's own ``Strategy.start``."""
        done = self.resume.done
        result = super().start(
            start.grid,
            arrays,
            rounds_left(start.num_rounds, done),
            start.timeout,
            start.train_config,
            evaluate_config,
            score,
        )
        count_results_on(result, done)
        return result

    def start(  # noqa: PLR0913 - Flower's signature
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = TIMEOUT,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the remaining rounds, as Flower's own ``Strategy.start``.

        Parameters and the result are those of ``flwr.serverapp.strategy.Strategy.start``;
        ``num_rounds`` is the last round of the whole run. In a decentralized run,
        ``Result.arrays`` and the arrays passed to ``evaluate_fn`` are the average of the nodes'
        models by the method's own rule, for reporting only.

        Raises
        ------
        RuntimeError
            If too many nodes fail in a round; or from ``prepare``.
        ValueError
            If the checkpoint is of a later round than ``num_rounds``; or from ``prepare``.
        """
        done = self.resume.done
        rounds_left(num_rounds, done)
        scores, settings = evaluate_fn is not None, train_config or ConfigRecord()
        begun = Start(grid, initial_arrays, num_rounds, timeout, settings, scores)
        arrays, score = self._begin(begun), scoring_on(evaluate_fn, done)
        result = self._run_rounds(begun, arrays, evaluate_config or ConfigRecord(), score)
        self._end(begun, result)
        return result

    def initialize_parameters(self, *args: object, **options: object) -> NoReturn:
        """Refuse Flower's legacy API, which calls this method first.

        Raises
        ------
        TypeError
            Always, with the API to use.
        """
        raise TypeError(
            f"{type(self).__name__} runs on Flower's Message API, not in the legacy "
            "ServerApp(server_fn=...); write @app.main() and strategy.start(grid, initial_arrays, "
            "num_rounds) in the ServerApp, and @app.train() instead of NumPyClient in the ClientApp"
        )
