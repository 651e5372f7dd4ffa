"""Going on from a checkpoint: what the router and FedAvg share.

Flower counts a strategy's rounds from 1 in every run; a strategy that resumes has ``done`` rounds
behind it, and counts on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from flwr.app import ArrayRecord, MetricRecord

from flwr_decaf.checkpoint import Checkpoint

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


def forget(checkpoint: Checkpoint) -> None:
    """Keep no checkpoint."""
