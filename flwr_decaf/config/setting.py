"""How a setting is declared: its default, its meaning and its check in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import TypeVar

from flwr_decaf.checks import Check

Value = str | int | float | bool
Given = Value | Sequence[Value]  # as TOML has it; Flower's run-config has no lists
T = TypeVar("T")


def setting(default: T, meaning: str, check: Check | None = None, many: bool = False) -> T:
    """Declare a setting.

    Parameters
    ----------
    default : str, int, float or bool
        Its default, whose type is the setting's.
    meaning : str
        A sentence for those who look it up.
    check : Check, optional
        What a value must fulfil.
    many : bool
        Whether a value is a comma-separated list, which may be given as a TOML list too.
    """
    return field(default=default, metadata={"meaning": meaning, "check": check, "many": many})
