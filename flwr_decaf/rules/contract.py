"""The signature of a mixing rule, and the checks on its arguments.

``rule(states, weights) -> state``: ``states[0]`` is the node's own state, the others are those of
its neighbours; ``weights`` is the node's row of the mixing matrix, in the same order. The result is
a new dict with the names, order, shapes and dtypes of the node's own state. A rule is a pure
function: it does not use Flower, files or logs, and does not modify its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from flwr_decaf.lora import State

Rule = Callable[[Sequence[State], Sequence[float]], State]


def check_arguments(states: Sequence[State], weights: Sequence[float]) -> None:
    """Reject states that do not match one another, or weights that do not sum to 1.

    Raises
    ------
    ValueError
        If the arguments violate the contract; the message names the first violation.
    """
    if not states or len(states) != len(weights):
        raise ValueError(
            f"a rule needs one weight for each state, the node's own first; got {len(states)} "
            f"states and {len(weights)} weights"
        )
    if min(weights) < 0 or not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        raise ValueError(f"mixing weights must be >= 0 and sum to 1; got {list(weights)}")
    for position, state in enumerate(states[1:], start=1):
        check_alike(states[0], state, who=f"state {position}")


def unprotected(rule: Rule, byzantine: int) -> Rule:
    """Return the rule unchanged: every neighbour is trusted."""
    return rule


def check_alike(own: State, other: State, who: str) -> None:
    """Reject a state whose names, shapes or dtypes differ from those of ``own``.

    Parameters
    ----------
    own : State
        The node's own state.
    other : State
        The state to check.
    who : str
        Name of ``other`` in error messages.

    Raises
    ------
    ValueError
        If they differ; the message names ``who`` and the first tensor that does.
    """
    if other.keys() != own.keys():
        unmatched = min(other.keys() ^ own.keys())
        raise ValueError(
            f"{who} must have the same tensors as the node's own; {unmatched} is in only one of "
            "them"
        )
    for name, tensor in other.items():
        expected = own[name]
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            raise ValueError(
                f"{who}: {name} must be {tuple(expected.shape)} {expected.dtype}; "
                f"got {tuple(tensor.shape)} {tensor.dtype}"
            )
