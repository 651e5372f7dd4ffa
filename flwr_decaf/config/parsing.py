"""Conversion of Flower's flat run-config to a checked ``Config``, and back."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, cast

from flwr_decaf.config.sections import Config
from flwr_decaf.config.setting import Given, T, Value, checked


def parse_config(run_config: Mapping[str, Given]) -> Config:
    """Convert Flower's run-config to a ``Config``, and check it.

    Parameters
    ----------
    run_config : mapping
        Flat settings with kebab-case keys, nested by dots. Missing keys take their defaults. A
        comma-separated setting may also be a list.

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
                f"{_suggestion(key, list(known))}"
            )
    return _build(Config, run_config, prefix="")


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


def _suggestion(key: str, known: list[str]) -> str:
    # Users often omit the section, or give only the section or a word: rank, topology, rounds.
    names = {name: full for full in reversed(known) for name in (full, full.rpartition(".")[2])}
    words = {word: full for full in reversed(known) for word in re.split(r"[.-]", full)}
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.75)
    meant = words.get(key) or (names[near[0]] if near else None)
    return f"did you mean {meant}?" if meant else "'flwr-decaf list settings' lists all of them"
