"""What the nodes of asynchronous rounds do at their own pace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import ConfigRecord, MessageType

from flwr_decaf.config import Failures, Rounds

TRAIN, EVALUATE = MessageType.TRAIN, MessageType.EVALUATE


@dataclass(frozen=True)
class Pace:
    """What nodes do at their own pace.

    Attributes
    ----------
    rounds : Rounds
        Whose posts are exchanged, and the end of the run.
    failures : Failures
        How often failed nodes are called again, and how many may fail.
    is_measured : callable
        Function of a round: whether distances are measured in it.
    is_evaluated : callable
        Function of a round before the last and a node: whether the node is evaluated in it.
    evaluate_config : ConfigRecord
        Settings of the evaluate messages.
    renew : callable
        Function that follows nodes with new node ids.
    """

    rounds: Rounds
    failures: Failures
    is_measured: Callable[[int], bool]
    is_evaluated: Callable[[int, int], bool]
    evaluate_config: ConfigRecord
    renew: Callable[[], None]


@dataclass(frozen=True)
class Task:
    """What a node was asked for last.

    Attributes
    ----------
    server_round : int
        The node's round.
    kind : str
        ``TRAIN`` or ``EVALUATE``.
    retries : int
        Number of times that it is still called again if it fails; by default 0.
    restored : bool
        Whether it has been called again because it had lost its state; by default False.
    """

    server_round: int
    kind: str
    retries: int = 0
    restored: bool = False
