"""The learning rate over the rounds of a run, by name.

Adding one: a function (round, rounds) -> share of ``train.learning-rate``, and a line in
``registries.LEARNING_RATES``. Rounds count from 1.
"""

from __future__ import annotations

import math


def constant(server_round: int, rounds: int) -> float:
    """Keep the rate."""
    return 1.0


def cosine(server_round: int, rounds: int) -> float:
    """Go down from 1 in the first round towards 0: (1 + cos(pi (server_round - 1) / rounds)) / 2.

    SGDR without restarts (arXiv 1608.03983), stepped by round as DeCAF's epochs (2505.21382).
    """
    return (1 + math.cos(math.pi * (server_round - 1) / rounds)) / 2
