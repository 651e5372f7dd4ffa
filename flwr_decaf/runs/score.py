"""The score by which runs are compared: accuracy if the task has it, otherwise perplexity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """A score of evaluations.

    Attributes
    ----------
    name : str
        Its key in metrics.jsonl. The score on a node's own test set is ``local-<name>``, that of
        the average of the nodes' models ``average-<name>``.
    worst : callable
        Picks the worst of several values: ``min`` or ``max``.
    """

    name: str
    worst: Callable[[Iterable[float]], float]


SCORES = (Score("accuracy", min), Score("perplexity", max))


def score_of(lines: Iterable[Mapping[str, Any]]) -> Score | None:
    """Find the score in lines of metrics, or in one line's keys; None before any evaluation."""
    names = {name for line in lines for name in line}
    return next((score for score in SCORES if score.name in names), None)
