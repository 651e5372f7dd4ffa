"""Schedules: which LoRA factors are trained, exchanged and mixed in a round.

A schedule is a function of the round alone, so all nodes follow it without coordination, and so
does a resumed run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Phase(NamedTuple):
    """The factors that are trained, exchanged and mixed in a round: "AB", "A" or "B".

    All rounds of a schedule exchange the same factors, since a node that has lost its state
    receives its own last post.
    """

    trained: str
    exchanged: str
    mixed: str


Schedule = Callable[[int], Phase]


def both(server_round: int) -> Phase:
    """Train and exchange A and B: DLoRA, DeCAF, Dec-LoRA."""
    return Phase(trained="AB", exchanged="AB", mixed="AB")


def only_b(server_round: int) -> Phase:
    """Train and exchange B, with A frozen: DLoRA-FA."""
    return Phase(trained="B", exchanged="B", mixed="B")


def alternating(server_round: int, length: int, mixes: str = "both") -> Phase:
    """Train A for ``length`` rounds, then B for as many, and so on: TAD-LoRA.

    Both factors are mixed, by default, or only the one that is trained, with ``mixes="active"``:
    RoLoRA.

    Examples
    --------
    >>> "".join(alternating(t, length=2).trained for t in range(1, 7))
    'AABBAA'
    """
    active = "AB"[(server_round - 1) // length % 2]
    return Phase(trained=active, exchanged="AB", mixed=active if mixes == "active" else "AB")


def is_due(server_round: int, every: int, last: int) -> bool:
    """Return whether a round is due: if ``every`` divides it, or it is the last; 0 means never.

    Examples
    --------
    >>> [t for t in range(1, 8) if is_due(t, every=3, last=7)]
    [3, 6, 7]
    """
    return every > 0 and (server_round % every == 0 or server_round == last)


def how_often(every: int) -> str:
    """Describe rounds that ``is_due`` selects.

    Examples
    --------
    >>> how_often(3), how_often(1), how_often(0)
    ('every 3 rounds', 'every round', 'never')
    """
    return f"every {every} rounds" if every > 1 else "every round" if every else "never"
