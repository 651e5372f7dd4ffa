"""What every mixing rule is: its signature, and the checks on what it is given.

``rule(states, weights) -> state``: ``states[0]`` is the node's own, the others are its
neighbours'; ``weights`` is its row of the mixing matrix in the same order. The result is a
new dict with the own state's names, order, shapes and dtypes. A rule knows nothing of
Flower, files or logs, and leaves its arguments untouched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from flwr_decaf.lora import State

Rule = Callable[[Sequence[State], Sequence[float]], State]


def check_arguments(states: Sequence[State], weights: Sequence[float]) -> None:
    """Refuse states that do not match one another, or weights that do not sum to 1.

    Raises
    ------
    ValueError
        With the first tensor or weight that breaks the contract.
    """
    if not states or len(states) != len(weights):
        raise ValueError(
            f"a rule takes one weight for each state, the own first; got {len(states)} states "
            f"and {len(weights)} weights"
        )
    if min(weights) < 0 or not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        raise ValueError(f"mixing weights must be >= 0 and sum to 1; got {list(weights)}")
    for position, state in enumerate(states[1:], start=1):
        check_alike(states[0], state, who=f"state {position}")


def trusting(rule: Rule, liars: int) -> Rule:
    """Leave a rule as it is: no neighbour lies."""
    return rule


def check_alike(own: State, other: State, who: str) -> None:
    """Refuse a state whose names, shapes or dtypes are not those of ``own``.

    Raises
    ------
    ValueError
        Naming ``who`` and the tensor.
    """
    if other.keys() != own.keys():
        odd = min(other.keys() ^ own.keys())
        raise ValueError(
            f"{who} must hold the same tensors as the node's own; {odd} is in one only"
        )
    for name, tensor in other.items():
        expected = own[name]
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            raise ValueError(
                f"{who}: {name} must be {tuple(expected.shape)} {expected.dtype}; "
                f"got {tuple(tensor.shape)} {tensor.dtype}"
            )
