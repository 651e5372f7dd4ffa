"""Descriptions of all settings, taken from their declarations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, cast

from flwr_decaf.config.sections import Config
from flwr_decaf.config.setting import IN_WORDS, spelled


class Declared(NamedTuple):
    """The declaration of a setting.

    Attributes
    ----------
    key : str
        Key in kebab-case, nested by dots.
    kind : str
        Type in words.
    default : str
        Default, formatted as in TOML.
    meaning : str
        One sentence.
    rule : str
        Rule for values; empty if any value of the type is valid.
    """

    key: str
    kind: str
    default: str
    meaning: str
    rule: str


def declared_settings(section: Any = None, prefix: str = "") -> Iterator[Declared]:
    """Iterate over all settings, beginning with those outside sections.

    Parameters
    ----------
    section : dataclass, optional
        Section to iterate over; by default the whole ``Config``.
    prefix : str
        Prefix of its keys, by default empty.
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
