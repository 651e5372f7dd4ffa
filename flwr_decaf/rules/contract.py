"""The signature of a mixing rule, and the checks on its arguments.

``rule(states, weights) -> state``: ``states[0]`` is the node's own state, the others are those of
its neighbours; ``weights`` is the node's row of the mixing matrix, in the same order. The result is
a new dict with the names, order, shapes and dtypes of the node's own state. A rule is a pure
function: it does not use Flower, files or logs, and does not modify its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

from flwr_decaf.lora import State, pairs_present

Rule = Callable[[Sequence[State], Sequence[float]], State]

Ranks = Literal["equal", "lower", "any"]  # of LoRA pairs, in comparison with the node's own


def check_arguments(
    states: Sequence[State],
    weights: Sequence[float],
    any_rank: bool = False,
    signed: bool = True,
) -> None:
    """Reject states that do not match one another, or weights that do not sum to 1.

    Parameters
    ----------
    states, weights
        The arguments of a rule.
    any_rank : bool
        Whether the ranks of LoRA pairs may differ between the states, because the rule mixes their
        products; by default False.
    signed : bool
        Whether weights may be negative, because the rule is linear: in asynchronous exchanges, a
        node subtracts its own previous post. By default True.

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
    if not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        raise ValueError(f"mixing weights must sum to 1; got {list(weights)}")
    if not signed and min(weights) < 0:
        raise ValueError(f"mixing weights of this rule must be >= 0; got {list(weights)}")
    for position, state in enumerate(states[1:], start=1):
        check_alike(states[0], state, f"state {position}", "any" if any_rank else "equal")


def unprotected(rule: Rule, byzantine: int) -> Rule:
    """Return the rule unchanged: every neighbour is trusted."""
    return rule


def check_alike(own: State, other: State, who: str, ranks: Ranks = "equal") -> None:
    """Reject a state whose names, shapes or dtypes differ from those of ``own``.

    Parameters
    ----------
    own : State
        The node's own state.
    other : State
        The state to check.
    who : str
        Name of ``other`` in error messages.
    ranks : str
        Ranks that complete LoRA pairs may have: "equal" to those of ``own``, by default; equal or
        "lower"; or "any" up to the shorter side of a layer.

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
    adapted = [] if ranks == "equal" else pairs_present(other)
    axes = {name: axis for pair in adapted for axis, name in enumerate(pair)}  # of the rank
    for name, tensor in other.items():
        expected, axis = own[name], axes.get(name)
        shape, wanted = _apart_from(axis, tensor), _apart_from(axis, expected)
        if shape != wanted or tensor.dtype != expected.dtype:
            raise ValueError(
                f"{who}: {name} must be {tuple(expected.shape)} {expected.dtype}; "
                f"got {tuple(tensor.shape)} {tensor.dtype}"
            )
    for a, b in adapted:
        rank, most = len(other[a]), len(own[a])
        if ranks == "any":
            most = max(most, min(own[a][0].numel(), len(own[b])))
        if other[b].shape[1] != rank or not 1 <= rank <= most:
            raise ValueError(
                f"{who}: {a} and {b} must have the same rank, from 1 to {most}; got {rank} and "
                f"{other[b].shape[1]}"
            )


def _apart_from(axis: int | None, x: Tensor) -> tuple[int, ...]:
    return tuple(0 if place == axis else size for place, size in enumerate(x.shape))
