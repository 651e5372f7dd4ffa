"""Going on from a checkpoint: what the router and FedAvg share.

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


def scoring_on(score: Score | None, done: int) -> Score | None:
    """Do the same for ``evaluate_fn``, which has scored the start already if rounds are done."""
    if score is None or done == 0:
        return score
    return lambda server_round, arrays: score(done + server_round, arrays) if server_round else None


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


def count_results_on(result: Result, done: int) -> None:
    """Give a result's metrics the numbers that their rounds have in the whole run."""
    for kind in ("train", "evaluate"):
        name = f"{kind}_metrics_clientapp"
        setattr(result, name, {done + t: record for t, record in getattr(result, name).items()})
    scored = result.evaluate_metrics_serverapp
    result.evaluate_metrics_serverapp = {done + t: record for t, record in scored.items()}


def forget(checkpoint: Checkpoint) -> None:
    """Keep no checkpoint."""
