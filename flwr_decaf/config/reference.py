"""The settings as their declarations describe them, for those who look them up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, cast

from flwr_decaf.config.parsing import IN_WORDS, spelled
from flwr_decaf.config.sections import Config


class Declared(NamedTuple):
    """What is declared of a setting.

    Attributes
    ----------
    key : str
        Kebab-case, nested by dots.
    kind : str
        Its type in words.
    default : str
        As TOML spells it.
    meaning : str
        One sentence.
    rule : str
        What a value must fulfil; empty if any of its type is taken.
    """

    key: str
    kind: str
    default: str
    meaning: str
    rule: str


def declared_settings(section: Any = None, prefix: str = "") -> Iterator[Declared]:
    """Go through all settings, those of no section first.

    Parameters
    ----------
    section : dataclass, optional
        Where to look, by default the whole ``Config``.
    prefix : str
        Of its keys.
    """
    section = Config() if section is None else section
    nested = {}
    for declared in fields(cast(Any, section)):
        key, default = prefix + declared.name.replace("_", "-"), getattr(section, declared.name)
        if is_dataclass(default):
            nested[f"{key}."] = default
            continue
        check = declared.metadata["check"]
        kind = "list" if declared.metadata["many"] else IN_WORDS[type(default)]
        meaning, rule = declared.metadata["meaning"], check.rule if check else ""
        yield Declared(key, kind, spelled(default), meaning, rule)
    for key, inner in nested.items():
        yield from declared_settings(inner, key)
