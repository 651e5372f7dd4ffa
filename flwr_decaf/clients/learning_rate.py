"""Learning-rate schedules over the steps of a round and the rounds of a run, by name.

To add one, write a function (optimizer, server_round, rounds, steps) -> scheduler, and a line in
``registries.LEARNING_RATES``. The scheduler is one of ``torch.optim.lr_scheduler``: it starts from
the optimizer's rate, ``train.learning-rate``, and is stepped after each of the ``steps`` of the
round. Rounds are counted from 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from flwr_decaf import registries
from flwr_decaf.registries import Registry

Scheduler = Callable[[Optimizer, int, int, int], LRScheduler]
LEARNING_RATES: Registry[Scheduler] = Registry(registries.LEARNING_RATES)
_LOWEST = 1e-6  # final rate of the DeCAF authors' cosine schedule


def constant(optimizer: Optimizer, server_round: int, rounds: int, steps: int) -> LRScheduler:
    """Keep the rate constant."""
    return LambdaLR(optimizer, lambda step: 1.0)


def cosine(optimizer: Optimizer, server_round: int, rounds: int, steps: int) -> LRScheduler:
    """Decay the rate over the rounds, from its full value in the first one towards 0.

        rate = learning_rate (1 + cos(pi (server_round - 1) / rounds)) / 2

    SGDR without restarts (arXiv 1608.03983), stepped by round.
    """
    share = (1 + math.cos(math.pi * (server_round - 1) / rounds)) / 2
    return LambdaLR(optimizer, lambda step: share)


def cosine_per_round(
    optimizer: Optimizer, server_round: int, rounds: int, steps: int
) -> LRScheduler:
    """Decay the rate over the steps of each round towards 1e-6, as in the DeCAF authors' code.

        rate = 1e-6 + (learning_rate - 1e-6) (1 + cos(pi step / steps)) / 2,   step = 0 .. steps-1

    SGDR with a restart in each round (arXiv 1608.03983). Rates below 1e-6 are kept.
    """
    lowest = min(_LOWEST, *(group["lr"] for group in optimizer.param_groups))
    return CosineAnnealingLR(optimizer, T_max=steps, eta_min=lowest)
