"""The score by which runs are compared: accuracy if the task has it, otherwise perplexity.

Runs without a common test are compared by the nodes' scores on their own test rows.
"""

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
        Key of the score in metrics.jsonl. The score on a node's own test set is ``local-<name>``,
        and that of the average of the nodes' models ``average-<name>``.
    worst : callable
        Function that returns the worst of several values: ``min`` or ``max``.
    """

    name: str
    worst: Callable[[Iterable[float]], float]

    @property
    def is_local(self) -> bool:
        """Whether it is the score on the nodes' own tests, because there is no common one."""
        return self.name.startswith(_LOCAL)

    @property
    def local(self) -> str:
        """Key of the score on a node's own test set."""
        return self.name if self.is_local else f"{_LOCAL}{self.name}"

    @property
    def test(self) -> str:
        """Name of the test set on which it is measured."""
        return "own tests" if self.is_local else "common test"


_LOCAL = "local-"
SCORES = (
    Score("accuracy", min),
    Score("perplexity", max),
    Score("local-accuracy", min),
    Score("local-perplexity", max),
)


def score_of(lines: Iterable[Mapping[str, Any]]) -> Score | None:
    """Find the score that lines of metrics contain; None before the first evaluation."""
    names = {name for line in lines for name in line}
    return next((score for score in SCORES if score.name in names), None)
