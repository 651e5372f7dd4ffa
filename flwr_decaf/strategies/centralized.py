"""Centralized: training with all data in one place, as a baseline."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from flwr.app import ArrayRecord, Message

from flwr_decaf.strategies.fedavg import FedAvg


class Centralized(FedAvg):
    """One node trains alone on the rows of all nodes.

    With ``train.local-steps``, it takes as many steps as a single node in other runs. With
    ``train.local-epochs``, it makes as many passes, but over n times as many rows, which is about n
    times as many steps.

    The ClientApp gives this node the whole data set (its local test set is then also held out from
    the whole). Nothing is exchanged except the raw data, once, which is not counted.
    Parameters: see ``FedAvg``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.evaluation = replace(self.evaluation, evaluate_fraction=1.0)

    def _note_asked(self, messages: Iterable[Message]) -> list[Message]:
        """Call only the first node, in every round, since it keeps the optimizer's moments."""
        by_place = sorted(messages, key=lambda message: self._node(message.metadata.dst_node_id))
        return super()._note_asked(by_place[:1])

    def _carried(self, arrays: ArrayRecord, *sender: int) -> tuple[ArrayRecord, int]:
        return arrays, 0  # nothing is sent, so nothing is rounded
