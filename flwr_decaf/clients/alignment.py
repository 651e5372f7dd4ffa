"""What a client hands to the mod so that its neighbours' models can be aligned to its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from flwr.app import Context, Message

from flwr_decaf.lora import State
from flwr_decaf.rules import ALIGNED


class Alignment(Protocol):
    """Aligns whole models, and mends what averaging breaks: ``flwr_decaf.matching.Matching``."""

    def align(self, states: Sequence[State]) -> list[State]:
        """Bring all states but the first into the order of the first, the node's own."""

    def settle(self, state: State) -> State:
        """Bring a merged state's statistics up to date."""


Prepare = Callable[[Message, Context], Alignment]


def check_aligns(rule: str, prepare: Prepare | None) -> None:
    """Refuse a rule of aligned states where the client gives nothing that aligns them.

    Raises
    ------
    ValueError
        In one line.
    """
    if rule in ALIGNED and prepare is None:
        raise ValueError(
            "strategy dimat must be run by clients that match hidden units; this ClientApp has the "
            "mod peer_mixing alone; write mods=[peer_mixing_with(...)], see docs/own-client.md, or "
            "take another strategy"
        )
