"""What the value of a setting must fulfil."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from flwr_decaf.text import split_list


class Check(NamedTuple):
    """What a value must fulfil, in words and as a test, and what to do if it does not."""

    rule: str
    holds: Callable[[Any], bool]
    remedy: str


def one_of(registry: Iterable[str]) -> Check:
    """Require a name that is registered."""
    names = list(registry)
    return Check(f"be one of {', '.join(names)}", names.__contains__, "take one of these")


def each_of(registry: Iterable[str]) -> Check:
    """Require one or several names that are registered, separated by commas."""
    names = list(registry)
    return Check(
        f"be one or several of {', '.join(names)}, separated by commas",
        lambda value: all(name in names for name in split_list(value)) and bool(split_list(value)),
        "take some of these",
    )


def at_least(lowest: float, remedy: str) -> Check:
    """Require a number that is not below ``lowest``."""
    return Check(f"be >= {lowest}", lambda value: bool(value >= lowest), remedy)


def above(bound: float, remedy: str) -> Check:
    """Require a number greater than ``bound``."""
    return Check(f"be > {bound}", lambda value: bool(value > bound), remedy)


def share(remedy: str) -> Check:
    """Require a share, 0 <= x < 1."""
    return Check("be >= 0 and < 1", lambda value: bool(0 <= value < 1), remedy)


def whole_numbers(example: str) -> Check:
    """Require a list of whole numbers, which may be empty."""
    return Check(
        "be whole numbers >= 0, separated by commas, or empty",
        lambda value: all(part.isdecimal() for part in split_list(value)),
        f'write e.g. "{example}"',
    )
