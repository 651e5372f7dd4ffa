"""The interface through which a client aligns its neighbours' models to its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from flwr.app import Context, Message

from flwr_decaf.lora import State
from flwr_decaf.rules import ALIGNED


class Alignment(Protocol):
    """Aligns whole models before they are averaged, e.g. ``flwr_decaf.matching.Matching``."""

    def align(self, states: Sequence[State]) -> list[State]:
        """Permute the units of all states but the first to match the first, the node's own."""

    def settle(self, state: State) -> State:
        """Recompute the batch-norm statistics of a merged state."""


Prepare = Callable[[Message, Context], Alignment]


def check_aligns(rule: str, prepare: Prepare | None) -> None:
    """Reject a rule of aligned states if the client does not align them.

    Raises
    ------
    ValueError
        If the rule needs aligned states and ``prepare`` is None.
    """
    if rule in ALIGNED and prepare is None:
        raise ValueError(
            "strategy dimat needs clients that match hidden units; this ClientApp has only the mod "
            "peer_mixing; write mods=[peer_mixing_with(...)] (see docs/own-client.md), or use "
            "another strategy"
        )
