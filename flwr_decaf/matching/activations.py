"""How the hidden units of models correlate on the same data."""

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
_ROUNDINGS = 8  # by which the values of a constant unit may differ


class Moments:
    """Sums over samples from which Pearson's correlation of two models' units follows.

    Both sides are shifted by the first samples' mean, else large means would cancel the rest; sums
    are kept in fp64.
    """

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, own: Tensor, other: Tensor) -> None:
        """Take in samples: ``own`` and ``other`` of shape (samples, units)."""
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
        """Correlate own units (rows) with the other's (columns); a constant unit has none."""
        x, y, xx, yy, xy = (total / self._count for total in self._sums)
        own, other = self._shifts
        spreads = torch.outer(_spread(xx - x * x, own), _spread(yy - y * y, other))
        return (xy - torch.outer(x, y)) / spreads


def _spread(variance: Tensor, level: Tensor) -> Tensor:
    """Take the root; infinite where the values differ by no more than their rounding."""
    spread = variance.clamp(min=0).sqrt()
    rounding = _ROUNDINGS * torch.finfo(level.dtype).eps * level.double().cpu().abs()
    return spread.masked_fill(spread <= rounding, torch.inf)


@torch.no_grad()
def correlations(
    model: nn.Module, groups: Sequence[Group], states: Sequence[State], batches: Iterable[Batch]
) -> list[list[Tensor]]:
    """Correlate each model's units with those of the first.

    Parameters
    ----------
    model : nn.Module
        Computes with each state; its own values do not matter and stay as they are.
    groups : sequence of Group
        Of ``find_groups``.
    states : sequence of State
        The first is the one that the others are to match.
    batches : iterable of mapping
        What ``model(**batch)`` takes, on the model's device. Models compute as in evaluation.

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
    with _listening(model, taps) as heard:
        for batch in batches:
            own = _activations(model, states[0], batch, heard)
            for state, kept in zip(states[1:], moments, strict=True):
                other = _activations(model, state, batch, heard)
                for tap in taps:
                    kept[tap].add(own[tap], other[tap])
    model.train(was_training)
    return [
        [torch.stack([kept[tap].correlation() for tap in group.taps]).mean(0) for group in groups]
        for kept in moments
    ]


def _activations(
    model: nn.Module, state: State, batch: Batch, heard: dict[Tap, Tensor]
) -> dict[Tap, Tensor]:
    functional_call(model, state, kwargs=dict(batch))
    taken = dict(heard)
    heard.clear()
    return taken


@contextmanager
def _listening(model: nn.Module, taps: Iterable[Tap]) -> Iterator[dict[Tap, Tensor]]:
    """Hook the layers of ``taps``; what they last computed is in the dict, as (samples, units)."""
    heard: dict[Tap, Tensor] = {}

    def listen(tap: Tap) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            heard[tap] = _as_samples(inputs[0] if tap.side == "input" else output, tap)

        return model.get_submodule(tap.layer).register_forward_hook(hook)

    handles = [listen(tap) for tap in taps]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _as_samples(values: Tensor, tap: Tap) -> Tensor:
    values = values.to(compute_dtype(values.dtype)).clone()  # what follows may work in place
    units_last = values.movedim(tap.dim, -1)
    split = units_last.reshape(*units_last.shape[:-1], -1, tap.repeat)
    return split.transpose(-1, -2).flatten(0, -2)
