"""Resuming from a checkpoint, for decentralized strategies and FedAvg.

Flower numbers the rounds of a strategy from 1 in every run; a strategy that resumes has already
completed ``resume.done`` rounds, and continues to count from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import Result

from flwr_decaf.messages.checkpoint import Checkpoint, NodeProgress

Hook = TypeVar("Hook", bound=Callable[..., Any])
Score = Callable[[int, ArrayRecord], MetricRecord | None]
Keep = Callable[[Checkpoint], None]


def forget(checkpoint: Checkpoint) -> None:
    """Keep no checkpoint."""


@dataclass(frozen=True)
class Resume:
    """Where and with whom a run starts, and what happens after each of its rounds.

    Parameters
    ----------
    resume_from : Checkpoint, optional
        Checkpoint to resume from; by default the run starts at round 1. The initial arrays must be
        those of the run that wrote it.
    on_round : callable
        Function that is called with a ``Checkpoint`` after each complete round; by default it does
        nothing.
    starting_nodes : mapping of int to int, optional
        With open membership, the ids of the nodes with which the run starts or resumes, by
        position. ``on_join`` is called for others, such as nodes that have registered in the
        meantime. By default all that answer the roll call.
    """

    resume_from: Checkpoint | None = None
    on_round: Keep = forget
    starting_nodes: Mapping[int, int] | None = None

    @property
    def done(self) -> int:
        """Number of rounds that the checkpoint has completed."""
        return self.resume_from.server_round if self.resume_from else 0

    @property
    def progress(self) -> Mapping[int, NodeProgress]:
        """Progress of the nodes of asynchronous rounds; empty if all are in the same round."""
        return self.resume_from.progress if self.resume_from else {}


def counting_on(hook: Hook) -> Hook:
    """Pass the number of the round in the whole run to a method of a strategy."""

    @wraps(hook)
    def counted(self: Any, server_round: int, *rest: Any, **named: Any) -> Any:
        return hook(self, self.resume.done + server_round, *rest, **named)

    return cast(Hook, counted)


def rounds_left(num_rounds: int, done: int) -> int:
    """Return the number of remaining rounds.

    Raises
    ------
    ValueError
        If the checkpoint is of a later round than ``num_rounds``.
    """
    if num_rounds < done:
        raise ValueError(
            f"num_rounds must be at least the round of the checkpoint, {done}; got {num_rounds}; "
            "resume with the number of rounds of the whole run"
        )
    return num_rounds - done


def scoring_on(score: Score | None, done: int) -> Score | None:
    """Pass the number of the round in the whole run to ``evaluate_fn``.

    If rounds have already been completed, it has already scored the initial arrays.
    """
    if score is None or done == 0:
        return score
    return lambda server_round, arrays: score(done + server_round, arrays) if server_round else None


def count_results_on(result: Result, done: int) -> None:
    """Number the metrics of a result by the rounds of the whole run."""
    for kind in ("train_metrics_clientapp", "evaluate_metrics_clientapp"):
        metrics = {done + t: record for t, record in getattr(result, kind).items()}
        setattr(result, kind, metrics)
    scored = result.evaluate_metrics_serverapp
    result.evaluate_metrics_serverapp = {done + t: record for t, record in scored.items()}
