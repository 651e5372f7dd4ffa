"""The order in which rows are used: shuffled passes, in groups; and rotations in evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch

from flwr_decaf.seeds import derive_seed

T = TypeVar("T")
_GOLDEN_RATIO = (1 + 5**0.5) / 2


def shuffled_passes(count: int, start: int, drawn: int, seed: int) -> list[int]:
    """Return a slice of an endless sequence of passes over 0 .. count-1, each shuffled anew.

    Consecutive slices contain all numbers equally often, and no position needs to be stored.

    Parameters
    ----------
    count : int
        Length of a pass.
    start, drawn : int
        Start and length of the slice.
    seed : int
        Seed that, together with the number of a pass, determines its order.

    Returns
    -------
    list of int
        The ``drawn`` numbers of the slice.

    Examples
    --------
    >>> first, second = shuffled_passes(4, 0, 3, seed=0), shuffled_passes(4, 3, 3, seed=0)
    >>> sorted(first + second[:1])
    [0, 1, 2, 3]
    """
    first, skipped = divmod(start, count)
    passes = []
    for number in range(first, first + (skipped + drawn - 1) // count + 1):
        generator = torch.Generator().manual_seed(derive_seed(seed, "pass", number))
        passes.append(torch.randperm(count, generator=generator))
    return torch.cat(passes)[skipped : skipped + drawn].tolist()


def grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of ``size`` consecutive items; the last list may be shorter.

    Examples
    --------
    >>> list(grouped("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


def from_own_start(places: Sequence[int], process: int) -> list[int]:
    """Rotate a sequence, by another distance in each process.

    Actors that begin at the same time with a test set that they share then compute the hidden
    states of different rows, and read those of the others. Multiples of the golden ratio, modulo 1,
    are far apart for nearby numbers.

    Parameters
    ----------
    places : sequence of int
        The sequence.
    process : int
        Id of the process.

    Examples
    --------
    >>> from_own_start(range(6), 100), from_own_start(range(6), 101)
    ([4, 5, 0, 1, 2, 3], [2, 3, 4, 5, 0, 1])
    """
    first = int(process * _GOLDEN_RATIO % 1 * len(places))
    return [*places[first:], *places[:first]]
