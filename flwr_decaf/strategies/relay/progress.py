"""How far the nodes of asynchronous rounds have come."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flwr_decaf.messages.checkpoint import NodeProgress
from flwr_decaf.topology.asynchronous import Staleness
from flwr_decaf.topology.rows import Floats, Indices, Rows


class Progress:
    """The round of each node, and which posts it has mixed.

    Parameters
    ----------
    rows : Rows
        Rows of the mixing matrix.
    done : mapping of int to NodeProgress
        Progress of the nodes in a checkpoint; empty before round 1.

    Attributes
    ----------
    rounds : ndarray
        Round of each node's newest post, of shape (n,); 0 before the first.
    examples : ndarray
        Number of examples that each node reported with it, if mixes are weighted by it; else 0.
    staleness : Staleness
        How often nodes have mixed since a post arrived.
    """

    def __init__(self, rows: Rows, done: Mapping[int, NodeProgress]) -> None:
        n = len(rows.own)
        self.rounds: Indices = np.zeros(n, dtype=np.int64)
        self.examples: Floats = np.zeros(n)
        self.staleness = Staleness(rows)
        for node, reached in done.items():
            self.rounds[node], self.examples[node] = reached.server_round, reached.examples
            self.staleness.restore(node, reached.staleness)

    @property
    def first(self) -> int:
        """The round that the first node has completed."""
        return int(self.rounds.max())

    @property
    def mean(self) -> int:
        """The mean round of the nodes, rounded down."""
        return int(self.rounds.sum()) // len(self.rounds)

    def posted(self, rounds: Mapping[int, int], examples: Floats | None = None) -> None:
        """Note that nodes have posted in these rounds, with these numbers of examples."""
        nodes = list(rounds)
        self.rounds[nodes] = list(rounds.values())
        if examples is not None:
            self.examples[nodes] = examples
        self.staleness.arrived(nodes)

    def of_nodes(self) -> dict[int, NodeProgress]:
        """Return the progress of each node, for a checkpoint."""
        values = zip(self.rounds.tolist(), self.examples.tolist(), strict=True)
        return {
            node: NodeProgress(server_round, examples, self.staleness.at(node))
            for node, (server_round, examples) in enumerate(values)
        }
