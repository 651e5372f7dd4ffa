"""Learning-rate schedules over the steps of a round and the rounds of a run, by name.

To add one, write a function (optimizer, server_round, rounds, steps, warmup) -> scheduler, and a
line in ``registries.LEARNING_RATES``. The scheduler is one of ``torch.optim.lr_scheduler``: it
starts from the optimizer's rate, ``train.learning-rate``, and is stepped after each of the
``steps`` of the round. Rounds are counted from 1. ``warmup`` is a number of steps at the start of
the run; schedules without a warm-up ignore it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler
from transformers import get_scheduler

from flwr_decaf import registries
from flwr_decaf.registries import Registry

Scheduler = Callable[[Optimizer, int, int, int, int], LRScheduler]
LEARNING_RATES: Registry[Scheduler] = Registry(registries.LEARNING_RATES)
WITH_WARMUP = ("linear", "constant-with-warmup", "cosine-with-warmup", "inverse-sqrt")
_LOWEST = 1e-6  # final rate of the DeCAF authors' cosine schedule


def constant(
    optimizer: Optimizer, server_round: int, rounds: int, steps: int, warmup: int = 0
) -> LRScheduler:
    """Keep the rate constant."""
    return LambdaLR(optimizer, lambda step: 1.0)


def cosine(
    optimizer: Optimizer, server_round: int, rounds: int, steps: int, warmup: int = 0
) -> LRScheduler:
    """Decay the rate over the rounds, from its full value in the first one towards 0.

        rate = learning_rate (1 + cos(pi (server_round - 1) / rounds)) / 2

    SGDR without restarts (arXiv 1608.03983), stepped by round.
    """
    share = (1 + math.cos(math.pi * (server_round - 1) / rounds)) / 2
    return LambdaLR(optimizer, lambda step: share)


def cosine_per_round(
    optimizer: Optimizer, server_round: int, rounds: int, steps: int, warmup: int = 0
) -> LRScheduler:
    """Decay the rate over the steps of each round towards 1e-6, as in the DeCAF authors' code.

        rate = 1e-6 + (learning_rate - 1e-6) (1 + cos(pi step / steps)) / 2,   step = 0 .. steps-1

    SGDR with a restart in each round (arXiv 1608.03983). Rates below 1e-6 are kept.
    """
    lowest = min(_LOWEST, *(group["lr"] for group in optimizer.param_groups))
    return CosineAnnealingLR(optimizer, T_max=steps, eta_min=lowest)


def linear(
    optimizer: Optimizer, server_round: int, rounds: int, steps: int, warmup: int = 0
) -> LRScheduler:
    """Decay the rate linearly to 0 over the steps of the whole run, after a linear warm-up."""
    return _of_transformers("linear", optimizer, server_round, rounds, steps, warmup)


def constant_with_warmup(
    optimizer: Optimizer, server_round: int, rounds: int, steps: int, warmup: int = 0
) -> LRScheduler:
    """Keep the rate constant after a linear warm-up."""
    return _of_transformers("constant_with_warmup", optimizer, server_round, rounds, steps, warmup)


def cosine_with_warmup(
    optimizer: Optimizer, server_round: int, rounds: int, steps: int, warmup: int = 0
) -> LRScheduler:
    """Decay the rate by half a cosine to 0 over the whole run, after a linear warm-up."""
    return _of_transformers("cosine", optimizer, server_round, rounds, steps, warmup)


def inverse_sqrt(
    optimizer: Optimizer, server_round: int, rounds: int, steps: int, warmup: int = 0
) -> LRScheduler:
    """Decay the rate by the inverse square root of the step, after a linear warm-up."""
    return _of_transformers("inverse_sqrt", optimizer, server_round, rounds, steps, warmup)


def _of_transformers(
    name: str, optimizer: Optimizer, server_round: int, rounds: int, steps: int, warmup: int
) -> LRScheduler:
    """Create a transformers schedule over the steps of the whole run, starting at this round's."""
    unused = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    whole = get_scheduler(name, unused, num_warmup_steps=warmup, num_training_steps=rounds * steps)
    (share,) = whole.lr_lambdas
    done = (server_round - 1) * steps
    return LambdaLR(optimizer, lambda step: share(done + step))
