"""Centralized: all data in one place, a reference."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from flwr.app import ArrayRecord, Message

from flwr_decaf.config import Posts
from flwr_decaf.strategies.fedavg import FedAvg


class Centralized(FedAvg):
    """One node trains alone on the rows of all nodes.

    With ``train.local-steps`` it takes as many steps as one node takes in the other runs; with
    ``train.local-epochs`` as many passes, over n times the rows, and so about n times the steps.

    The ClientApp hands the node it runs on the whole data set (its local test is then held out of
    the whole as well). Nothing is exchanged but the raw data, once, which is not counted.
    Parameters: see ``FedAvg``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.posts = Posts()  # nothing travels, so nothing is rounded
        self.evaluation = replace(self.evaluation, evaluate_fraction=1.0)

    def _note_asked(self, messages: Iterable[Message]) -> list[Message]:
        """Call the first node alone, in every round, since it holds the optimizer's moments."""
        by_place = sorted(messages, key=lambda message: self._node(message.metadata.dst_node_id))
        return super()._note_asked(by_place[:1])

    def _bytes_carried(self, arrays: ArrayRecord) -> int:
        return 0
