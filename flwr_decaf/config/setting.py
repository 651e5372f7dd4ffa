"""Declaration of a setting: its default, meaning and check in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import TypeVar

from flwr_decaf.checks import Check

Value = str | int | float | bool
Given = Value | Sequence[Value]  # TOML has lists, Flower's run-config does not
T = TypeVar("T")


def setting(default: T, meaning: str, check: Check | None = None, many: bool = False) -> T:
    """Declare a setting.

    Parameters
    ----------
    default : str, int, float or bool
        Default value, which also determines the type.
    meaning : str
        One sentence for the reference.
    check : Check, optional
        Rule for values; by default none.
    many : bool
        Whether a value is a comma-separated list, which may also be given as a TOML list; by
        default False.
    """
    return field(default=default, metadata={"meaning": meaning, "check": check, "many": many})
