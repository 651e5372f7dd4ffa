"""Resuming from a checkpoint: what the router and FedAvg share.

Flower counts a strategy's rounds from 1 in every run; a strategy that resumes has ``done`` rounds
behind it, and counts on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import Result

from flwr_decaf.messages.checkpoint import Checkpoint

Hook = TypeVar("Hook", bound=Callable[..., Any])
Score = Callable[[int, ArrayRecord], MetricRecord | None]
Keep = Callable[[Checkpoint], None]


def counting_on(hook: Hook) -> Hook:
    """Let a strategy's hook see the number of a round in the whole run."""

    @wraps(hook)
    def counted(self: Any, server_round: int, *rest: Any, **named: Any) -> Any:
        return hook(self, self.done + server_round, *rest, **named)

    return cast(Hook, counted)


def rounds_left(num_rounds: int, done: int) -> int:
    """Count the rounds that are left.

    Raises
    ------
    ValueError
        If the checkpoint is of a later round than the last.
    """
    if num_rounds < done:
        raise ValueError(
            f"num_rounds must be at least the round of the checkpoint, {done}; got {num_rounds}; "
            "resume with the number of rounds of the whole run"
        )
    return num_rounds - done


def run_rounds(
    start: Callable[..., Result], left: int, done: int, evaluate_fn: Score | None
) -> Result:
    """Run the rounds that are left by Flower's own ``start``, numbered as in the whole run.

    Parameters
    ----------
    start : callable
        ``Strategy.start`` with all its arguments but ``num_rounds`` and ``evaluate_fn``.
    left : int
        From ``rounds_left``.
    done : int
        Rounds of the checkpoint; if there are any, ``evaluate_fn`` has scored the start already.
    evaluate_fn : callable, optional
        As in ``Strategy.start``.
    """
    result = start(num_rounds=left, evaluate_fn=_scoring_on(evaluate_fn, done))
    _count_results_on(result, done)
    return result


def _scoring_on(score: Score | None, done: int) -> Score | None:
    if score is None or done == 0:
        return score
    return lambda server_round, arrays: score(done + server_round, arrays) if server_round else None


def _count_results_on(result: Result, done: int) -> None:
    for kind in ("train_metrics_clientapp", "evaluate_metrics_clientapp"):
        metrics = {done + t: record for t, record in getattr(result, kind).items()}
        setattr(result, kind, metrics)
    scored = result.evaluate_metrics_serverapp
    result.evaluate_metrics_serverapp = {done + t: record for t, record in scored.items()}


def forget(checkpoint: Checkpoint) -> None:
    """Keep no checkpoint."""
