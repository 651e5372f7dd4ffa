"""Conversion of Flower's flat run-config to a checked ``Config``, and back."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, cast

from flwr_decaf.checks import Check
from flwr_decaf.config.sections import Config
from flwr_decaf.config.setting import Given, T, Value
from flwr_decaf.topology.participation import read_schedule

_ANYTHING = Check("be anything", lambda value: True, "")
IN_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def parse_config(run_config: Mapping[str, Given]) -> Config:
    """Convert Flower's run-config to a ``Config``, and check it.

    Parameters
    ----------
    run_config : mapping
        Flat settings with kebab-case keys, nested by dots. Missing keys have their defaults. A
        comma-separated setting may be a list.

    Raises
    ------
    ValueError
        If a key is unknown, or a value has another type or breaks its rule; the message names the
        key, the rule, the value and the remedy in one line.

    Examples
    --------
    >>> parse_config({"lora.rank": 4}).lora.rank
    4
    """
    known = flatten(Config())
    for key in run_config:
        if key not in known:
            raise ValueError(
                f"{key} must be a setting of flwr-decaf; got {run_config[key]!r}; "
                f"did you mean {_nearest(key, list(known))}?"
            )
    config = _build(Config, run_config, prefix="")
    read_schedule(config.participation)  # raises if it cannot be parsed
    return config


def flatten(config: Config) -> dict[str, Value]:
    """Convert a ``Config`` to Flower's flat run-config."""
    flat: dict[str, Value] = {}
    for key, value in asdict(config).items():
        nested = value if isinstance(value, dict) else None
        for name, inner in (nested or {"": value}).items():
            flat[f"{key}.{name}".rstrip(".").replace("_", "-")] = inner
    return flat


def _build(kind: type[T], run_config: Mapping[str, Given], prefix: str) -> T:
    values: dict[str, Any] = {}
    defaults = kind()
    for declared in fields(cast(Any, kind)):
        key = prefix + declared.name.replace("_", "-")
        default = getattr(defaults, declared.name)
        if is_dataclass(default):
            values[declared.name] = _build(cast(Any, type(default)), run_config, f"{key}.")
        elif key in run_config:
            values[declared.name] = checked(key, run_config[key], default, declared.metadata)
    return kind(**values)


def checked(key: str, value: Given, default: Value, metadata: Mapping[str, Any]) -> Value:
    """Check a value by its setting's type and rule, and return it in that type.

    Raises
    ------
    ValueError
        If it has another type or breaks the rule.
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


def spelled(value: Given) -> str:
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


def _nearest(key: str, known: list[str]) -> str:
    return (difflib.get_close_matches(key, known, n=1, cutoff=0.0) or known)[0]
