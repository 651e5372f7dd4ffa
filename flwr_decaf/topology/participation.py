"""The nodes that participate in a round, for studies of partial participation, or are evaluated."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from flwr_decaf.seeds import derive_seed

NodesByRound = Sequence[Sequence[int]]


def read_schedule(given: str | NodesByRound) -> NodesByRound:
    """Read a participation schedule: lists, JSON, or the path of a JSON file.

    Returns
    -------
    sequence of sequence of int
        The nodes of each round; the lists are used in turn. Empty for an empty text.

    Raises
    ------
    ValueError
        If the schedule is not a list of non-empty lists of node numbers.

    Examples
    --------
    >>> read_schedule("[[0, 1], [1, 2]]")
    [[0, 1], [1, 2]]
    """
    if isinstance(given, str) and not given:
        return []
    try:
        rounds = _parsed(given) if isinstance(given, str) else list(given)
    except (OSError, ValueError) as error:
        raise ValueError(_complaint(given, f" ({error})")) from error
    if not isinstance(rounds, list) or not rounds or not all(map(_are_nodes, rounds)):
        raise ValueError(_complaint(given))
    return rounds


def present(
    server_round: int,
    n: int,
    schedule: NodesByRound,
    drop_probability: float,
    seed: int,
    there: Sequence[int] | None = None,
) -> list[int]:
    """List which of n nodes participate in a round; at least one always does.

    Parameters
    ----------
    server_round : int
        The round, counted from 1.
    n : int
        Number of nodes.
    schedule : sequence of sequence of int
        The result of ``read_schedule``; empty for all nodes in every round.
    drop_probability : float
        Probability with which a scheduled node drops out.
    seed : int
        Seed of this round's draw.
    there : sequence of int, optional
        The nodes among which to draw without a schedule; by default all.

    Returns
    -------
    list of int
        The nodes that participate.

    Raises
    ------
    ValueError
        If the schedule names a node that does not exist.

    Examples
    --------
    >>> present(2, 4, [[0, 1], [1, 2]], drop_probability=0.0, seed=0)
    [1, 2]
    """
    if schedule:
        scheduled = sorted(set(schedule[(server_round - 1) % len(schedule)]))
    else:
        scheduled = list(range(n) if there is None else there)
    if scheduled[-1] >= n:
        raise ValueError(
            f"participation must name nodes 0 to {n - 1}; got {scheduled[-1]}; fix the schedule, "
            "or use more nodes"
        )
    generator = random.Random(seed)
    drawn = [generator.random() for _ in range(n)]
    staying = [node for node in scheduled if drawn[node] >= drop_probability]
    return staying or [max(scheduled, key=drawn.__getitem__)]


def check_schedule(schedule: NodesByRound, n: int) -> None:
    """Refuse a schedule that names a node outside 0 to n - 1.

    Raises
    ------
    ValueError
        From ``present``.
    """
    for server_round in range(1, len(schedule) + 1):
        present(server_round, n, schedule, drop_probability=0.0, seed=0)


def check_fraction(fraction: float, name: str = "evaluate_fraction") -> float:
    """Require the fraction of nodes to evaluate to be > 0 and <= 1.

    Raises
    ------
    ValueError
        If it is not; ``name`` is its name in the message, by default "evaluate_fraction".
    """
    if not 0 < fraction <= 1:
        raise ValueError(
            f"{name} must be > 0 and <= 1; got {fraction}; use 1 to evaluate all nodes, or "
            "evaluate_every = 0 to evaluate none"
        )
    return fraction


def draw_evaluated(
    server_round: int, nodes: Sequence[int], fraction: float, last: int, seed: int
) -> list[int]:
    """Draw the nodes that are evaluated in a round: all of them in the last, which reports compare.

    Parameters
    ----------
    server_round, last : int
        The round, and the last round of the run.
    nodes : sequence of int
        The nodes to draw from.
    fraction : float
        Fraction of them to draw, rounded, but at least one node.
    seed : int
        Seed of the draw, together with the round.

    Returns
    -------
    list of int
        The nodes to evaluate.

    Examples
    --------
    >>> len(draw_evaluated(1, range(10), 0.3, last=2, seed=0))
    3
    >>> len(draw_evaluated(2, range(10), 0.3, last=2, seed=0))
    10
    """
    if server_round == last or fraction == 1:
        return list(nodes)
    drawn = random.Random(derive_seed(seed, "evaluate", server_round))
    return sorted(drawn.sample(list(nodes), max(1, round(fraction * len(nodes)))))


def _parsed(text: str) -> object:
    return json.loads(text if text.lstrip().startswith("[") else Path(text).read_text("utf8"))


def _are_nodes(nodes: object) -> bool:
    return (
        isinstance(nodes, list)
        and bool(nodes)
        and all(type(node) is int and node >= 0 for node in nodes)
    )


def _complaint(given: object, cause: str = "") -> str:
    return (
        "participation must be a JSON list with a list of nodes for each round, or the path of a "
        f"file with one; got {given!r}{cause}; write e.g. [[0, 1, 2], [0, 2]]"
    )
