"""The roster: the Flower node id of each position in the graph, even if nodes register anew."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from flwr.serverapp import Grid

from flwr_decaf.config import Posts
from flwr_decaf.strategies.relay.presence import (
    announcements_of,
    require_disclosure,
    require_stores,
)
from flwr_decaf.strategies.relay.roll_call import newcomers, presences

_log = logging.getLogger("flwr")


class Roster:
    """Node ids by position in the graph.

    Parameters
    ----------
    ids : list of int
        Result of ``roll_call``.
    announcements : sequence of bytes
        Keys that the nodes have announced, by position; by default none.
    """

    def __init__(self, ids: list[int], announcements: Sequence[bytes] = ()) -> None:
        self.ids = ids
        self.announcements = announcements
        self._seen = set(ids)

    @classmethod
    def call(cls, grid: Grid, num_nodes: int | None, posts: Posts) -> Roster:
        """Wait for all nodes, see ``roll_call``, and check that they can post as the run does."""
        answers = presences(grid, num_nodes)
        if posts.store:
            require_stores(answers)
        if not posts.encrypted:
            return cls(list(answers))
        if posts.disclose_adapters:
            require_disclosure(answers)
        return cls(list(answers), announcements_of(answers))

    @property
    def positions(self) -> range:
        """Positions of all nodes, 0 to n - 1."""
        return range(len(self.ids))

    def readmit(self, grid: Grid) -> list[int]:
        """Restore the positions of nodes that have a new id, such as restarted SuperNodes.

        Returns
        -------
        list of int
            Positions of these nodes.
        """
        answers = newcomers(grid, self._seen)
        self._seen |= answers.keys()
        back = {node: node_id for node_id, node in answers.items() if node in self.positions}
        for node, node_id in back.items():
            _log.warning("Node %d is back under a new node id", node)
            self.ids[node] = node_id
        return list(back)
