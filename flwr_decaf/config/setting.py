"""Declaration of a setting: its default, meaning and check in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, TypeVar

from flwr_decaf.checks import Check

Value = str | int | float | bool
Given = Value | Sequence[Value]  # TOML has lists, Flower's run-config does not
T = TypeVar("T")

_ANYTHING = Check("be anything", lambda value: True, "")
IN_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


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


def checked(key: str, value: Given, default: Value, metadata: Mapping[str, Any]) -> Value:
    """Check a value by its setting's type and rule, and return it in that type.

    Raises
    ------
    ValueError
        If the value has another type or breaks the rule.
    """
    wanted = type(default)
    if metadata["many"] and isinstance(value, list):
        value = _joined(key, value)
    if wanted is float and type(value) is int:
        value = float(value)
    if wanted is str and type(value) is int:  # seeds = 0, tad.phase-length = 5
        value = str(value)
    if type(value) is not wanted:
        raise ValueError(
            f"{key} must be {IN_WORDS[wanted]}; got {spelled(value)}; "
            f"write e.g. {key}={spelled(default)}"
        )
    check: Check = metadata["check"] or _ANYTHING
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} must be finite; got {value}; write e.g. {key}={default}")
    if not check.holds(value):
        raise ValueError(f"{key} must {check.rule}; got {spelled(value)}; {check.remedy}")
    return value


def spelled(value: object) -> str:
    """Format a value as in TOML.

    Examples
    --------
    >>> spelled(True), spelled("ring"), spelled(1e-4)
    ('true', "'ring'", '0.0001')
    """
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _joined(key: str, values: Sequence[Value]) -> str:
    for value in values:
        if isinstance(value, list | dict) or "," in str(value):
            raise ValueError(
                f"{key} must be a list of values without commas; got {value!r}; Flower's settings "
                "cannot be lists, so the values are joined by commas"
            )
    return ", ".join(str(value) for value in values)
