"""Asynchronous exchanges: two neighbours exchange their newest posts once both have a new one.

Nodes i and j exchange posts p_i and p_j as soon as each of them has posted since their last
exchange. Whoever posts later mixes at once; the other one is training by then, and mixes when it
posts next, whatever it posts. The update of node i, with its new post p_i, is

    x_i <- p_i + sum_(j now) w_ij (p_j - p_i) + sum_(j late) w_ij (p_j - p'_i)

where p'_i is its previous post, which it has exchanged for those that come late. A pair of posts
thus moves i by ``w_ij (p_j - p_i)`` and j by ``w_ij (p_i - p_j)``, with the same posts. The sum of
both is zero, as in flow updating (Jesus, Baquero and Almeida, DAIS 2009), so the mean of the models
is preserved, up to what is still late, and not only in expectation: every training moves it by its
change / n. A run ends with mixes of all nodes, after which nothing is late. With weights in
detailed balance, ``m_i w_ij = m_j w_ji``, the same holds for the mean weighted by m.

If node i instead mixed the newest posts of its neighbours, ``x_i <- w_ii p_i + sum_j w_ij p_j``, it
would compare its new post with posts from before this training, and so lose a part of every
training: about a third of it, with nodes that are equally fast and post in turns.

A pair exchanges at the pace of its slower node, so neither the speed of a node nor the distribution
of speeds changes how much a training counts, and a node that trains five times as often has five
times the influence. Convergence of such algorithms is analysed for AD-PSGD (arXiv 1710.06952),
where pairs of nodes average at the same time, and for SWIFT (arXiv 2210.14026), whose nodes also do
not wait for one another.

If all nodes post at the same time, the updates are those of W.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from flwr_decaf.topology.rows import Rows

Post = TypeVar("Post")


@dataclass(frozen=True)
class Received(Generic[Post]):
    """What a node mixes.

    Attributes
    ----------
    now : dict of int to Post
        Posts of neighbours that are exchanged for its new post, by sender.
    late : dict of int to Post
        Posts of neighbours that were exchanged for its previous post.
    """

    now: dict[int, Post] = field(default_factory=dict)
    late: dict[int, Post] = field(default_factory=dict)

    @property
    def senders(self) -> list[int]:
        """Neighbours whose posts are mixed; each of them receives a post in exchange."""
        return [*self.now, *self.late]

    def weights(self, own: float, row: Mapping[int, float]) -> tuple[list[float], float]:
        """Return the weights of its own new post and of ``now`` and ``late``, and of its previous.

        Parameters
        ----------
        own : float
            Diagonal entry of the node's row of W, which is used as it is if all neighbours'
            posts are exchanged now.
        row : mapping of int to float
            The other entries, by neighbour.

        Examples
        --------
        >>> Received({1: "p_1"}, {2: "p_2"}).weights(0.5, {1: 0.25, 2: 0.25})
        ([0.75, 0.25, 0.25], -0.25)
        """
        now, late = ([row.get(j, 0.0) for j in posts] for posts in (self.now, self.late))
        new = own if self.now.keys() >= row.keys() else max(1.0 - sum(now), 0.0)
        return [new, *now, *late], -sum(late, 0.0)


class Exchanges(Generic[Post]):
    """Which neighbours exchange posts, and which posts are still late.

    Parameters
    ----------
    rows : Rows
        Rows of W, whose entries tell who are neighbours.
    largest : int
        Largest difference between the rounds of two nodes that exchange posts; by default 0: any.

    Attributes
    ----------
    waiting : dict of int to set of int
        Node -> neighbours for which its newest post has not been exchanged yet.
    late : dict of int to dict of int to Post
        Node -> posts that it has not mixed yet, by sender.
    """

    def __init__(self, rows: Rows, largest: int = 0) -> None:
        self._rows, self._largest = rows, largest
        self.waiting: dict[int, set[int]] = {}
        self.late: dict[int, dict[int, Post]] = {}

    def posted(
        self, nodes: Collection[int], posts: Mapping[int, Post], rounds: Sequence[int]
    ) -> dict[int, Received[Post]]:
        """Exchange the new posts of nodes for those of their neighbours.

        Two nodes do not exchange again before both have mixed; their newest posts wait.

        Parameters
        ----------
        nodes : collection of int
            Nodes that have posted, at the same time.
        posts : mapping of int to Post
            The newest post of every node that has posted.
        rounds : sequence of int
            The round of every node's newest post.

        Returns
        -------
        dict of int to Received
            What each of these nodes mixes.
        """
        self.waiting |= {i: set(self._rows.neighbours(i)) for i in nodes}
        received = {i: Received(late=self.late.get(i, {})) for i in nodes}
        for i, j in self._exchanging(nodes, rounds):
            self.waiting[i].discard(j)
            self.waiting[j].discard(i)
            for node, other in ((i, j), (j, i)):
                if node in nodes:
                    received[node].now[other] = posts[other]
                else:
                    self.late.setdefault(node, {})[other] = posts[other]
        for node in nodes:
            self.late.pop(node, None)
        return received

    def _exchanging(
        self, nodes: Collection[int], rounds: Sequence[int]
    ) -> Iterator[tuple[int, int]]:
        """Find the pairs of neighbours, at least one of them among the nodes, that exchange."""
        for i in sorted(nodes):
            for j in self._rows.neighbours(i):
                both = i in self.waiting.get(j, ()) and j in self.waiting[i]
                mixed = i not in self.late.get(j, ()) and j not in self.late.get(i, ())
                near = self._largest == 0 or abs(rounds[i] - rounds[j]) <= self._largest
                if both and mixed and near:
                    yield i, j
