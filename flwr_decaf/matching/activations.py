"""Correlation of the hidden units of several models on the same data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flwr_decaf.lora import State, compute_dtype
from flwr_decaf.matching.groups import Group, Tap

Batch = Mapping[str, Tensor]
_ROUNDINGS = 8  # number of rounding errors by which the values of a constant unit may differ


class Moments:
    """Sums over samples from which Pearson's correlation between the units of two models follows.

    Both sides are shifted by the mean of the first samples, because large means would cause
    cancellation. Sums are accumulated in fp64.
    """

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, own: Tensor, other: Tensor) -> None:
        """Add samples: ``own`` and ``other`` are of shape (samples, units)."""
        if not self._sums:
            self._shifts = own.mean(dim=0), other.mean(dim=0)
            self._count, self._sums = 0, [torch.zeros(())] * 5
        x, y = own - self._shifts[0], other - self._shifts[1]
        parts = x.sum(dim=0), y.sum(dim=0), (x * x).sum(dim=0), (y * y).sum(dim=0), x.T @ y
        self._count += len(x)
        self._sums = [
            total + part.double().cpu() for total, part in zip(self._sums, parts, strict=True)
        ]

    def correlation(self) -> Tensor:
        """Return the correlation of own units (rows) with the other model's units (columns).

        It is 0 for a constant unit.
        """
        x, y, xx, yy, xy = (total / self._count for total in self._sums)
        own, other = self._shifts
        deviations = torch.outer(_deviation(xx - x * x, own), _deviation(yy - y * y, other))
        return (xy - torch.outer(x, y)) / deviations


def _deviation(variance: Tensor, mean: Tensor) -> Tensor:
    """Return the standard deviation; infinite where it is no more than the rounding error."""
    deviation = variance.clamp(min=0).sqrt()
    rounding = _ROUNDINGS * torch.finfo(mean.dtype).eps * mean.double().cpu().abs()
    return deviation.masked_fill(deviation <= rounding, torch.inf)


@torch.no_grad()
def correlations(
    model: nn.Module, groups: Sequence[Group], states: Sequence[State], batches: Iterable[Batch]
) -> list[list[Tensor]]:
    """Correlate the units of each model with those of the first.

    Parameters
    ----------
    model : nn.Module
        Evaluated with each state; its own values are neither used nor changed.
    groups : sequence of Group
        The result of ``find_groups``.
    states : sequence of State
        The others are to match the first.
    batches : iterable of mapping
        The arguments of ``model(**batch)``, on the model's device. The model is in evaluation mode.

    Returns
    -------
    list of list of Tensor
        For each state but the first, and each group, a matrix of shape (units, units): the mean
        over all layers that write or read the group.
    """
    taps = [tap for group in groups for tap in group.taps]
    moments = [{tap: Moments() for tap in taps} for _ in states[1:]]
    was_training = model.training
    model.eval()
    with _recording(model, taps) as recorded:
        for batch in batches:
            own = _activations(model, states[0], batch, recorded)
            for state, by_tap in zip(states[1:], moments, strict=True):
                other = _activations(model, state, batch, recorded)
                for tap in taps:
                    by_tap[tap].add(own[tap], other[tap])
    model.train(was_training)
    return [
        [torch.stack([by_tap[tap].correlation() for tap in group.taps]).mean(0) for group in groups]
        for by_tap in moments
    ]


def _activations(
    model: nn.Module, state: State, batch: Batch, recorded: dict[Tap, Tensor]
) -> dict[Tap, Tensor]:
    functional_call(model, state, kwargs=dict(batch))
    activations = dict(recorded)
    recorded.clear()
    return activations


@contextmanager
def _recording(model: nn.Module, taps: Iterable[Tap]) -> Iterator[dict[Tap, Tensor]]:
    """Hook the layers of ``taps``, and yield a dict of their last values, as (samples, units)."""
    recorded: dict[Tap, Tensor] = {}

    def record(tap: Tap) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            recorded[tap] = _as_samples(inputs[0] if tap.side == "input" else output, tap)

        return model.get_submodule(tap.layer).register_forward_hook(hook)

    handles = [record(tap) for tap in taps]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _as_samples(values: Tensor, tap: Tap) -> Tensor:
    values = values.to(compute_dtype(values.dtype)).clone()  # the next layer may modify it in place
    units_last = values.movedim(tap.dim, -1)
    split = units_last.reshape(*units_last.shape[:-1], -1, tap.repeat)
    return split.transpose(-1, -2).flatten(0, -2)
