"""Arguments of Flower's FedAvg, so that a project can swap its strategy and keep them.

Those that mean the same on a graph are taken over; the others are refused with what to use instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Signature
from typing import Any

import numpy as np

from flwr_decaf.rules import NEEDED
from flwr_decaf.topology.mixing_matrix import degrees_of
from flwr_decaf.topology.network import Network
from flwr_decaf.topology.participation import check_fraction

_LOOKED_AT = 20  # rounds of a time-varying network
_MINIMA = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")


def take_over(given: Mapping[str, object], signature: Signature) -> dict[str, Any]:
    """Say what arguments of FedAvg mean for a decentralized strategy.

    ``fraction_train`` must be 1. ``fraction_evaluate`` is ``evaluate_fraction``, or 0 for
    ``evaluate_every=0``; the minimum numbers of nodes are checked once the nodes have registered.

    Parameters
    ----------
    given : mapping
        Arguments by name.
    signature : inspect.Signature
        Of what takes arguments; the last one collects those in ``given``.

    Returns
    -------
    dict
        Values for ``evaluate_every``, ``evaluate_fraction`` and ``min_nodes``, where ``given``
        decides them.

    Raises
    ------
    TypeError
        For a name that is unknown, with those that are known.
    ValueError
        For a value that has no meaning on a graph, with what to use instead.
    """
    known = [name for name in signature.parameters if name != "self"][:-1]
    meant: dict[str, Any] = {}
    for name, value in given.items():
        if name == "fraction_train":
            _check_trains_all(value)
        elif name == "fraction_evaluate":
            meant |= _evaluation(value)
        elif name in _MINIMA:
            meant["min_nodes"] = max(meant.get("min_nodes", 0), _count(name, value))
        else:
            raise TypeError(
                f"a decentralized strategy takes no argument {name!r}; known are {', '.join(known)}"
            )
    return meant


def check_minimum(n: int, minimum: int) -> None:
    """Require as many nodes as FedAvg's arguments ask for.

    Raises
    ------
    ValueError
        If there are fewer.
    """
    if n < minimum:
        raise ValueError(
            f"{', '.join(_MINIMA)} must be at most the number of nodes; got {minimum}, and there "
            f"are {n}; lower the minimum, or start more nodes"
        )


def check_byzantine(
    network: Network,
    robust: str,
    byzantine: int,
    sign_flipping: int,
    names: tuple[str, str] = ("byzantine", "sign_flipping"),
) -> int:
    """Refuse robust mixing where no node has the neighbours for it, and a run without honest nodes.

    Parameters
    ----------
    network : Network
        Whose first rounds are looked at.
    robust, byzantine, sign_flipping
        As in ``DecentralizedStrategy``.
    names : tuple of str
        Of the last two, as the caller wrote them.

    Returns
    -------
    int
        How many neighbours a node needs to mix, if some node has fewer in some round; else 0.

    Raises
    ------
    ValueError
        If no node ever has as many.
    """
    n, needed = len(network.base), NEEDED[robust](byzantine)
    if sign_flipping >= n:
        raise ValueError(
            f"{names[1]} must leave honest nodes; got {sign_flipping} of {n} nodes; lower it"
        )
    rounds = range(1, (_LOOKED_AT if network.is_time_varying else 1) + 1)
    degrees = np.concatenate([degrees_of(network.of_round(t)) for t in rounds])
    if needed > degrees.max():
        raise ValueError(
            f"{names[0]} must leave a node neighbours to trust; got {byzantine}, with which "
            f"{robust} needs {needed} neighbours, and nodes have at most {degrees.max()}; choose a "
            f"denser topology, or lower {names[0]}"
        )
    return needed if needed > degrees.min() else 0


def _check_trains_all(fraction: object) -> None:
    if fraction != 1:
        raise ValueError(
            f"fraction_train must be 1.0; got {fraction!r}; on a graph every node trains in every "
            "round: leave it out, or let nodes stay away with participation or drop_probability"
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
        raise ValueError(f"{name} must be a whole number; got {value!r}; leave it out")
    return value
