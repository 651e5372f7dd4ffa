"""How far the nodes of asynchronous rounds have come."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import chain

import numpy as np
from flwr.app import Array

from flwr_decaf.messages.checkpoint import Letter, NodeProgress
from flwr_decaf.messages.mail import PREVIOUS
from flwr_decaf.topology.asynchronous import Exchanges, Received
from flwr_decaf.topology.rows import Floats, Indices, Rows


class Progress:
    """The round of each node, and which posts it has exchanged.

    Parameters
    ----------
    rows : Rows
        Rows of the mixing matrix.
    largest : int
        Largest difference between the rounds of two nodes that exchange posts; 0: any.
    done : mapping of int to NodeProgress
        Progress of the nodes in a checkpoint; empty before round 1.

    Attributes
    ----------
    rounds : ndarray
        Round of each node's newest post, of shape (n,); 0 before the first.
    examples : ndarray
        Number of examples that each node reported with it, if mixes are weighted by it; else 0.
    """

    def __init__(self, rows: Rows, largest: int, done: Mapping[int, NodeProgress]) -> None:
        n = len(rows.own)
        self.rounds: Indices = np.zeros(n, dtype=np.int64)
        self.examples: Floats = np.zeros(n)
        self._exchanges: Exchanges[Array] = Exchanges(rows, largest)
        for node, reached in done.items():
            self.rounds[node], self.examples[node] = reached.server_round, reached.examples
            self._exchanges.waiting[node] = set(reached.waiting)
            self._exchanges.late[node] = dict(reached.late)

    @property
    def first(self) -> int:
        """The round that the first node has completed."""
        return int(self.rounds.max())

    @property
    def mean(self) -> int:
        """The mean round of the nodes, rounded down."""
        return int(self.rounds.sum()) // len(self.rounds)

    @property
    def held(self) -> Iterator[Array]:
        """The posts that nodes will still mix, in addition to those of their mail."""
        return chain.from_iterable(posts.values() for posts in self._exchanges.late.values())

    def is_settled(self, nodes: Collection[int]) -> bool:
        """Return whether nodes have exchanged and mixed all their newest posts."""
        waiting, late = self._exchanges.waiting, self._exchanges.late
        return not any(late.get(i) or waiting.get(i, set()).intersection(nodes) for i in nodes)

    def note(self, rounds: Mapping[int, int], examples: Floats | None = None) -> None:
        """Note that nodes have posted in these rounds, with these numbers of examples."""
        nodes = list(rounds)
        self.rounds[nodes] = list(rounds.values())
        if examples is not None:
            self.examples[nodes] = examples

    def exchange(
        self, nodes: Collection[int], posts: Mapping[int, Array]
    ) -> dict[int, Received[Array]]:
        """Exchange the new posts of nodes; see ``Exchanges.posted``."""
        return self._exchanges.posted(nodes, posts, self.rounds.tolist())

    def lags(self, node: int, received: Received[Array]) -> tuple[float, float]:
        """Average over the posts that a node mixes; 0 if there are none.

        Returns
        -------
        staleness : float
            Number of trainings that the node has completed since it exchanged the post.
        behind : float
            Its round, minus that of the post's sender.
        """
        senders = received.senders
        if not senders:
            return 0.0, 0.0
        behind = self.rounds[node] - self.rounds[senders].mean()
        return len(received.late) / len(senders), float(behind)

    def of_nodes(self) -> dict[int, NodeProgress]:
        """Return the progress of each node, for a checkpoint."""
        waiting, late = self._exchanges.waiting, self._exchanges.late
        values = zip(self.rounds.tolist(), self.examples.tolist(), strict=True)
        return {
            node: NodeProgress(*done, tuple(sorted(waiting.get(node, ()))), late.get(node, {}))
            for node, done in enumerate(values)
        }


def letter_of(node: int, received: Received[Array], rows: Rows, previous: Array | None) -> Letter:
    """Write what a node mixes; its own previous post is added if posts are late.

    Parameters
    ----------
    node : int
        The node.
    received : Received
        Posts that it has exchanged.
    rows : Rows
        Rows of W.
    previous : Array or None
        Its own previous post; None before the first.
    """
    weights, of_previous = received.weights(*rows.row(node))
    posts = {**received.now, **received.late}
    if previous is not None and received.late:
        posts[PREVIOUS], weights = previous, [*weights, of_previous]
    return Letter(tuple(weights), posts, late=tuple(received.late))


def readers_of(received: Mapping[int, Received[Array]], n: int) -> Indices:
    """Count the posts that nodes exchange, of shape (n,): each goes both ways."""
    counts: Indices = np.zeros(n, dtype=np.int64)
    for node, got in received.items():
        counts[node] = len(got.senders)
    return counts
