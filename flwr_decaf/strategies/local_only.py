"""Local-only: training without any exchange, as a baseline."""

from typing import Any

from flwr_decaf.strategies.decentralized import DecentralizedStrategy


class LocalOnly(DecentralizedStrategy):
    """Every node trains alone, W = I.

    Parameters: see ``DecentralizedStrategy``, without those of the graph.
    """

    rule = "average"

    def __init__(self, **options: Any) -> None:
        super().__init__("isolated", **options)
