"""Checks of a strategy once its nodes and its initial arrays are known."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
from flwr.serverapp import Grid

from flwr_decaf.config import Attack, Evaluation, Participation, Robust
from flwr_decaf.lora import State, factor_of
from flwr_decaf.rules import NEEDED, RULES
from flwr_decaf.strategies.relay.arguments import MINIMA
from flwr_decaf.strategies.relay.roll_call import has_evaluate
from flwr_decaf.topology.network import Network
from flwr_decaf.topology.participation import check_schedule
from flwr_decaf.topology.time_varying import FINITE_TIME
from flwr_decaf.topology.weights import BY_EXAMPLES

_log = logging.getLogger("flwr")
_LOOKED_AT = 20  # rounds of a time-varying network


def check_nodes(
    network: Network, robust: Robust, attack: Attack, participation: Participation
) -> None:
    """Check options of a strategy on its network; warn if some nodes cannot mix.

    Raises
    ------
    ValueError
        From ``check_byzantine``, or if ``participation`` names a node that does not exist.
    """
    few = check_byzantine(network, robust.method, robust.byzantine, attack.sign_flipping)
    if few:
        _log.warning("robust: nodes with fewer than %d neighbours in a round do not mix", few)
    check_schedule(participation.schedule, len(network.base))


def check_initial(initial: State, rule: str, local_head: bool) -> None:
    """Refuse initial arrays that the rule cannot mix.

    Raises
    ------
    ValueError
        If the rule refuses them, as it would at every node, or if ``local_head`` leaves nothing to
        mix.
    """
    RULES[rule]([initial], [1.0])
    if local_head and not any(map(factor_of, initial)):
        raise ValueError(
            "local_head must be False for arrays without LoRA factors, of which nothing would "
            "be mixed; got True; omit it, or train adapters"
        )


def evaluates(grid: Grid, node_id: int, evaluation: Evaluation) -> bool:
    """Return whether nodes are ever evaluated; warn if the ClientApp has no evaluate function."""
    if evaluation.evaluate_every == 0:
        return False
    registered = has_evaluate(grid, node_id)
    if not registered:
        _log.warning(
            "The ClientApp has no evaluate function, so nodes are not evaluated; register one "
            "with @app.evaluate(), or pass evaluate_every=0"
        )
    return registered


def check_weighted(weighted_mixing: bool, weights: str, dynamic: str, robust: Robust) -> bool:
    """Return ``weighted_mixing``; refuse weights by numbers of examples where they do not apply.

    Parameters
    ----------
    weighted_mixing, weights, dynamic, robust
        As in ``DecentralizedStrategy``.

    Raises
    ------
    ValueError
        If nodes would be weighted in two ways, under a robust rule, since nodes report their
        numbers of examples, or by Metropolis-Hastings on Base graphs, which would not average.
    """
    by_examples = weights in BY_EXAMPLES
    if weighted_mixing and by_examples:
        raise ValueError(
            f"weighted-mixing must be false with topology.weights {weights!r}, which already "
            "weights nodes by their numbers of examples; got true; omit one of them"
        )
    if (weighted_mixing or by_examples) and robust.method != "none":
        setting = f"topology.weights must not be {weights}" if by_examples else ""
        raise ValueError(
            f"{setting or 'weighted-mixing must be false'} with a robust rule, as a Byzantine "
            f"node could report any number of examples; got robust.method {robust.method!r}; omit "
            "one of them"
        )
    if by_examples and dynamic in FINITE_TIME:
        raise ValueError(
            f"topology.weights must be auto with topology.dynamic = {dynamic}, whose weights are "
            f"part of its graphs; got {weights!r}; set weighted-mixing = true instead"
        )
    return weighted_mixing


def check_only(given: Iterable[tuple[str, object, object]], reason: str) -> None:
    """Refuse options that do not apply to a strategy.

    Parameters
    ----------
    given : iterable of (str, object, object)
        Keys in the settings, the values of the options, and the only ones that apply.
    reason : str
        Name of the strategy, and what excludes other values.

    Raises
    ------
    ValueError
        If a value is another one.
    """
    for key, value, only in given:
        if value != only:
            raise ValueError(
                f"{key} must be {only} with {reason}; got {value}; omit it, or use dlora"
            )


def excluded(key: str, only: str, got: str, what: str, reason: str) -> ValueError:
    """Return the error of two options of which each excludes the other.

    Parameters
    ----------
    key, only, got : str
        Key of the first option in the settings, its only value that applies, and its value.
    what, reason : str
        The second option, and why it excludes other values of the first.
    """
    return ValueError(
        f"{key} must be {only} with {what}, since {reason}; got {got}; omit one of them"
    )


def check_num_nodes(num_nodes: int | None) -> int | None:
    """Return a whole number of nodes, or None for the nodes' own ``num-partitions``.

    Raises
    ------
    ValueError
        If it is any other value.
    """
    is_count = isinstance(num_nodes, int) and not isinstance(num_nodes, bool) and num_nodes >= 1
    if num_nodes is not None and not is_count:
        raise ValueError(
            f"num_nodes must be a whole number >= 1; got {num_nodes!r}; omit it to wait for the "
            "num-partitions of the nodes"
        )
    return num_nodes


def check_minimum(n: int, minimum: int) -> None:
    """Require the minimum number of nodes that FedAvg's arguments set.

    Raises
    ------
    ValueError
        If there are fewer.
    """
    if n < minimum:
        raise ValueError(
            f"{', '.join(MINIMA)} must be at most the number of nodes, {n}; got {minimum}; "
            "lower the minimum, or start more nodes"
        )


def check_byzantine(
    network: Network,
    robust: str,
    byzantine: int,
    sign_flipping: int,
    names: tuple[str, str] = ("byzantine", "sign_flipping"),
) -> int:
    """Refuse robust mixing if no node has enough neighbours, and a run without honest nodes.

    Parameters
    ----------
    network : Network
        Network, whose first rounds are checked.
    robust, byzantine, sign_flipping
        As in ``config.options.Robust`` and ``Attack``.
    names : tuple of str
        Names of the last two for the error message; by default those of the arguments.

    Returns
    -------
    int
        Number of neighbours that a node needs to mix if some node has fewer in some round, else 0.

    Raises
    ------
    ValueError
        If no node ever has that many, or all nodes are Byzantine.
    """
    n, needed = len(network.base), NEEDED[robust](byzantine)
    if sign_flipping >= n:
        raise ValueError(
            f"{names[1]} must leave honest nodes; got {sign_flipping} of {n} nodes; lower it"
        )
    rounds = range(1, (_LOOKED_AT if network.is_time_varying else 1) + 1)
    degrees = np.concatenate([network.rows(t).degrees for t in rounds])
    if needed > degrees.max():
        raise ValueError(
            f"{names[0]} must leave a node neighbours to trust; got {byzantine}, with which "
            f"{robust} needs {needed} neighbours, and nodes have at most {degrees.max()}; choose a "
            f"denser topology, or lower {names[0]}"
        )
    return needed if needed > degrees.min() else 0
