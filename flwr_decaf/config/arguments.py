"""Arguments of Python constructors, checked by the rules of the settings that they stand for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from flwr_decaf.config.parsing import checked
from flwr_decaf.config.sections import Config


def check_argument(name: str, value: object, setting: str) -> Any:
    """Check an argument as the setting that it stands for.

    Parameters
    ----------
    name : str
        As the caller wrote it, for the error.
    value : object
        A Python, NumPy or PyTorch scalar, or a text.
    setting : str
        Key in kebab-case, e.g. "robust.method".

    Returns
    -------
    str, int, float or bool
        The value, of the setting's own type.

    Raises
    ------
    ValueError
        One line with the name, the rule, the value and the remedy.
    """
    section: object = Config()
    *rooms, last = setting.replace("-", "_").split(".")
    for room in rooms:
        section = getattr(section, room)
    declared = next(one for one in fields(section) if one.name == last)  # type: ignore[arg-type]
    value = value.item() if hasattr(value, "item") else value
    return checked(name, value, getattr(section, last), declared.metadata)  # type: ignore[arg-type]


def check_topology_options(options: Mapping[str, object]) -> dict[str, Any]:
    """Check the options of a topology: its settings, by their names in Python.

    Raises
    ------
    ValueError
        For a name that is none, with the nearest that is, or a value that breaks its rule.
    """
    known = ("edge_probability", "degree", "activation_probability")
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
