"""Arguments of Flower's FedAvg that make no sense on a graph, and what to use instead."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import Signature

_INSTEAD = {
    "fraction_train": "every node trains in every round; leave it out",
    "fraction_evaluate": "use evaluate_fraction",
    "min_train_nodes": "use max_failures",
    "min_evaluate_nodes": "use max_failures",
    "min_available_nodes": "use num_nodes",
}


def refuse(unknown: Iterable[str], signature: Signature) -> None:
    """Refuse arguments that a decentralized strategy does not take.

    Parameters
    ----------
    unknown : iterable of str
        Names of the arguments.
    signature : inspect.Signature
        Of what takes arguments; the last one collects the unknown.

    Raises
    ------
    TypeError
        With what to use instead.
    """
    known = [name for name in signature.parameters if name != "self"][:-1]
    for name in unknown:
        remedy = _INSTEAD.get(name, f"known are {', '.join(known)}")
        raise TypeError(f"a decentralized strategy takes no argument {name!r}; {remedy}")
