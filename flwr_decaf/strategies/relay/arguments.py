"""Arguments of a decentralized strategy: option objects, their fields, and FedAvg's own names.

A project that replaces Flower's FedAvg can keep its arguments: those that have a meaning on a graph
are mapped, and the others are refused with the argument to use instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from flwr_decaf.config import (
    Attack,
    Evaluation,
    Failures,
    Membership,
    Participation,
    Posts,
    Robust,
    Rounds,
)
from flwr_decaf.config.arguments import check_argument
from flwr_decaf.strategies.relay.resuming import Resume
from flwr_decaf.topology.participation import check_fraction

OPTIONS: dict[str, type[Any]] = {
    "evaluation": Evaluation,
    "failures": Failures,
    "participation": Participation,
    "membership": Membership,
    "rounds": Rounds,
    "posts": Posts,
    "robust": Robust,
    "attack": Attack,
    "resume": Resume,
}
_MAIN_FIELD = {
    "participation": "participation",
    "membership": "membership",
    "rounds": "mode",
    "posts": "dtype",
    "robust": "method",
}
MINIMA = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")


def read_options(given: Mapping[str, object], shorthand: Mapping[str, Any]) -> dict[str, Any]:
    """Complete option objects with fields that are given as separate arguments.

    Parameters
    ----------
    given : mapping
        Name in ``OPTIONS`` -> an option object, or None for the defaults. The main field of
        those in ``_MAIN_FIELD`` may take the place of the object.
    shorthand : mapping
        Fields of option objects by name; they replace those of a given object.

    Returns
    -------
    dict
        An option object for each name in ``given``.

    Raises
    ------
    TypeError
        If an argument is not an option object of the right kind.
    ValueError
        From the checks of the fields.
    """
    options = {}
    for name, value in given.items():
        kind = OPTIONS[name]
        values = {one.name: shorthand[one.name] for one in fields(kind) if one.name in shorthand}
        if isinstance(value, kind):
            options[name] = replace(value, **values)
        else:
            main = {} if value is None else _main_field(name, value)
            options[name] = kind(**main, **values)
    return options


def fields_of(names: Iterable[str]) -> list[str]:
    """List the fields of option objects, which may be given as separate arguments."""
    return [one.name for name in names for one in fields(OPTIONS[name])]


def take_over(given: Mapping[str, object], known: Iterable[str]) -> dict[str, Any]:
    """Replace arguments of FedAvg by those that have the same meaning on a graph.

    ``fraction_train`` must be 1. ``fraction_evaluate`` becomes ``evaluate_fraction``, or
    ``evaluate_every=0`` if it is 0; the minimum numbers of nodes are checked once the nodes have
    registered.

    Parameters
    ----------
    given : mapping
        Fields of option objects, and arguments of FedAvg, by name.
    known : iterable of str
        Names of the other arguments, for the error message.

    Returns
    -------
    dict
        The fields, with those that FedAvg's arguments determine, and ``min_nodes``: by default 1.

    Raises
    ------
    TypeError
        If a name is unknown; the message lists the known ones and the nearest match.
    ValueError
        If a value has no meaning on a graph; the message names the argument to use instead.
    """
    own = fields_of(OPTIONS)
    meant: dict[str, Any] = {name: given[name] for name in given if name in own}
    meant["min_nodes"] = 1
    for name, value in given.items():
        if name == "fraction_train":
            _check_trains_all(value)
        elif name == "fraction_evaluate":
            meant |= _evaluation(value)
        elif name in MINIMA:
            meant["min_nodes"] = max(meant["min_nodes"], _count(name, value))
        elif name not in own:
            names = list(dict.fromkeys([*known, *own]))
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
            raise TypeError(
                f"a decentralized strategy takes no argument {name!r}; known are "
                f"{', '.join(names)}; did you mean {nearest[0]!r}?"
            )
    return meant


def _main_field(name: str, value: object) -> dict[str, Any]:
    if name not in _MAIN_FIELD:
        kind = OPTIONS[name].__name__
        raise TypeError(
            f"{name} must be an object of {kind}; got {value!r}; write {name}={kind}(...), or pass "
            f"{', '.join(fields_of([name]))} as arguments"
        )
    if name in ("posts", "robust", "rounds"):  # errors name the argument as the caller wrote it
        value = check_argument(name, value, f"{name}.{_MAIN_FIELD[name]}")
    return {_MAIN_FIELD[name]: value}


def _check_trains_all(fraction: object) -> None:
    if fraction != 1:
        raise ValueError(
            f"fraction_train must be 1.0; got {fraction!r}; on a graph, every node trains in every "
            "round: omit it, or use participation or drop_probability"
        )


def _evaluation(fraction: object) -> dict[str, Any]:
    if isinstance(fraction, bool) or not isinstance(fraction, int | float):
        raise ValueError(
            f"fraction_evaluate must be a number from 0 to 1; got {fraction!r}; 1.0 evaluates all "
            "nodes"
        )
    if fraction == 0:
        return {"evaluate_every": 0}
    return {"evaluate_fraction": check_fraction(fraction, "fraction_evaluate")}


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number; got {value!r}; omit it")
    return value
