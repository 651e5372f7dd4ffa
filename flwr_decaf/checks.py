"""Checks on the values of settings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from flwr_decaf.registries import READERS
from flwr_decaf.text import keyword_arguments, split_list


class Check(NamedTuple):
    """A check on a value.

    Attributes
    ----------
    rule : str
        What the value must do, as a phrase that follows "must", e.g. "be >= 1".
    holds : callable
        Value -> whether it satisfies the rule.
    remedy : str
        What the user can do if a value does not satisfy the rule.
    """

    rule: str
    holds: Callable[[Any], bool]
    remedy: str


def one_of(registry: Iterable[str]) -> Check:
    """Require a registered name."""
    names = list(registry)
    return Check(f"be one of {', '.join(names)}", names.__contains__, "choose one of these")


def one_of_or_class(registry: Iterable[str], suffix: str, module: str) -> Check:
    """Require a registered name, or an identifier that may name a class of a module."""
    names = list(registry)
    return Check(
        f"be one of {', '.join(names)}, or a class of {module}",
        lambda value: value in names or (value.isidentifier() and value.endswith(suffix)),
        "choose one of these",
    )


def each_of(registry: Iterable[str], empty: bool = False) -> Check:
    """Require one or more registered names, separated by commas.

    With ``empty``, by default False, there may be none.
    """
    names = list(registry)

    def holds(value: str) -> bool:
        chosen = split_list(value)
        return all(name in names for name in chosen) and bool(chosen or empty)

    return Check(
        f"be {'none' if empty else 'one'} or more of {', '.join(names)}, separated by commas",
        holds,
        "choose from these",
    )


def at_least(lowest: float, remedy: str) -> Check:
    """Require a number of at least ``lowest``."""
    return Check(f"be >= {lowest}", lambda value: bool(value >= lowest), remedy)


def above(bound: float, remedy: str) -> Check:
    """Require a number greater than ``bound``."""
    return Check(f"be > {bound}", lambda value: bool(value > bound), remedy)


def share(remedy: str) -> Check:
    """Require a fraction, 0 <= x < 1."""
    return Check("be >= 0 and < 1", lambda value: bool(0 <= value < 1), remedy)


def positive_share(remedy: str) -> Check:
    """Require a fraction, 0 < x <= 1."""
    return Check("be > 0 and <= 1", lambda value: bool(0 < value <= 1), remedy)


def whole_numbers(example: str) -> Check:
    """Require a list of integers >= 0, which may be empty."""
    return Check(
        "be integers >= 0, separated by commas, or empty",
        lambda value: all(part.isdecimal() for part in split_list(value)),
        f'write e.g. "{example}"',
    )


def ratios(example: str) -> Check:
    """Require a list of numbers >= 1, which may be empty."""

    def holds(value: str) -> bool:
        try:
            return all(1 <= float(part) < math.inf for part in split_list(value))
        except ValueError:
            return False

    return Check("be numbers >= 1, separated by commas, or empty", holds, f'write e.g. "{example}"')


def numbers_by_name(example: str, whole: bool = False) -> Check:
    """Require numbers > 0 by name, as a JSON object, which may be empty."""

    def holds(value: str) -> bool:
        try:
            numbers = keyword_arguments(value)
            for name in numbers:
                re.compile(name)
        except (TypeError, ValueError, re.error):
            return False
        kinds = (int,) if whole else (int, float)
        return all(type(number) in kinds and number > 0 for number in numbers.values())

    kind = "integers" if whole else "numbers"
    return Check(
        f"be a JSON object of {kind} > 0 by names of layers, or empty",
        holds,
        f"write e.g. '{example}'",
    )


def is_root(url: str) -> bool:
    """Check that a URL has a scheme and no secrets, or is an absolute path, or empty.

    Examples
    --------
    >>> [is_root(url) for url in ("", "/mnt/x", "s3://bucket/x", "x", "ftp://me:secret@host")]
    [True, True, True, False, False]
    """
    if not url or url.startswith("/"):
        return True
    scheme, separator, rest = url.partition("://")
    return bool(separator and scheme.isalnum()) and not set(rest) & set("@?#")


def refuse_missing_path(key: str, name: str) -> None:
    """Refuse a name that is the path of a file or folder which does not exist.

    Raises
    ------
    ValueError
        If the name begins like a path or ends like a file, and there is no such file or folder.
        Other names may be those of the Hugging Face Hub or of packages.
    """
    path = Path(name)
    is_path = name.startswith(("/", "./", "../", "~")) or path.suffix in {*READERS, ".gguf"}
    if is_path and not name.startswith("package:") and not path.exists():
        raise ValueError(
            f"{key} must name an existing file or folder, if it is a path; got {name!r}; there is "
            f"no {path.absolute()}; check the spelling and the current folder"
        )
