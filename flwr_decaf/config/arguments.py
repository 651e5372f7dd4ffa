"""Checks of constructor arguments by the rules of the corresponding settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from flwr_decaf.config.sections import Config
from flwr_decaf.config.setting import checked


def check_argument(name: str, value: object, setting: str) -> Any:
    """Check an argument by the rule of a setting.

    Parameters
    ----------
    name : str
        Name of the argument, for the error message.
    value : object
        A string, or a Python, NumPy or PyTorch scalar.
    setting : str
        Key in kebab-case, e.g. "robust.method".

    Returns
    -------
    str, int, float or bool
        The value in the type of the setting.

    Raises
    ------
    ValueError
        If the value breaks the rule; the message names the argument, the rule, the value and the
        remedy in one line.
    """
    section: object = Config()
    *parents, last = setting.replace("-", "_").split(".")
    for parent in parents:
        section = getattr(section, parent)
    declared = next(one for one in fields(section) if one.name == last)  # type: ignore[arg-type]
    value = value.item() if hasattr(value, "item") else value
    return checked(name, value, getattr(section, last), declared.metadata)  # type: ignore[arg-type]


def check_topology_options(options: Mapping[str, object]) -> dict[str, Any]:
    """Check the options of a topology by the rules of its settings.

    Parameters
    ----------
    options : mapping of str to object
        ``edge_probability``, ``degree``, ``activation_probability`` and ``peers``.

    Raises
    ------
    ValueError
        If a name is unknown, with the nearest known one, or a value breaks its rule.
    """
    known = ("edge_probability", "degree", "activation_probability", "peers")
    for name in options:
        if name not in known:
            nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
            raise ValueError(
                f"topology_options must be among {', '.join(known)}; got {name!r}; did you mean "
                f"{(nearest or known)[0]!r}?"
            )
    return {
        name: check_argument(f"topology_options[{name!r}]", value, f"topology.{name}")
        for name, value in options.items()
    }
