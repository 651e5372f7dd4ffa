"""Addressing: who receives what from whom, and with which weights.

In gossip, all neighbours receive a node's post. Over a tree (RelaySum, arXiv 2110.04175), a node
also forwards what it has received, in a separate message for each neighbour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import networkx as nx
from flwr.app import Array

from flwr_decaf.messages.checkpoint import Letter
from flwr_decaf.messages.mail import Mail
from flwr_decaf.topology.rows import Rows

Sent = Mapping[int, Mapping[int, Array]]  # sender -> recipient -> what it sends instead of its post


class Addressing(Protocol):
    """How the posts of a round become mail."""

    def recipients(self, node: int) -> tuple[int, ...]:
        """Return the neighbours for which a node writes separate messages."""

    def letters(
        self,
        nodes: Iterable[int],
        posts: Mapping[int, Array],
        sent: Sent,
        rows: Rows,
        mail: Mapping[int, Mail],
    ) -> dict[int, Letter]:
        """Return the next mail of some nodes.

        Parameters
        ----------
        nodes : iterable of int
            The nodes.
        posts : mapping of int to Array
            The last post of each node.
        sent : mapping of int to mapping of int to Array
            ``sent[i][j]`` is what node i sends to j instead of its post.
        rows : Rows
            Rows of W in the exchange, without the links of missing nodes.
        mail : mapping of int to Mail
            The last mail of each node.
        """


class Neighbours:
    """All neighbours of a node under W receive its post, with the weights of W."""

    def recipients(self, node: int) -> tuple[int, ...]:
        """Return an empty tuple: one post serves all neighbours."""
        return ()

    def letters(
        self,
        nodes: Iterable[int],
        posts: Mapping[int, Array],
        sent: Sent,
        rows: Rows,
        mail: Mapping[int, Mail],
    ) -> dict[int, Letter]:
        """Address posts to neighbours; see ``Addressing``."""
        letters = {}
        for node in nodes:
            own, weights = rows.row(node)
            received = {j: sent.get(j, {}).get(node, posts[j]) for j in weights}
            letters[node] = Letter((own, *weights.values()), received)
        return letters


class Relayed:
    """A node receives from each neighbour in a tree the mean of all models beyond that edge.

    A mean of c models has the weight c / n. The node's own model has the rest, since it takes the
    place of models that have not arrived yet. If a neighbour is missing in a round, its last
    message is used again. The number of models in a message follows from the last mail of its
    sender, so nothing but the mail needs to be stored.

    Parameters
    ----------
    tree : networkx.Graph
        A tree on nodes 0 to n - 1.
    """

    def __init__(self, tree: nx.Graph) -> None:
        self._tree = tree

    def recipients(self, node: int) -> tuple[int, ...]:
        """Return the neighbours in the tree."""
        return tuple(sorted(self._tree[node]))

    def letters(
        self,
        nodes: Iterable[int],
        posts: Mapping[int, Array],
        sent: Sent,
        rows: Rows,
        mail: Mapping[int, Mail],
    ) -> dict[int, Letter]:
        """Address messages along the tree; see ``Addressing``."""
        return {node: self._letter(node, sent, mail) for node in nodes}

    def _letter(self, node: int, sent: Sent, mail: Mapping[int, Mail]) -> Letter:
        n, counts, received = len(self._tree), {}, {}
        earlier = self._counts(node, mail)
        for j in self.recipients(node):
            if node in sent.get(j, {}):
                received[j] = sent[j][node]
                others = self._counts(j, mail)
                counts[j] = 1 + sum(count for k, count in others.items() if k != node)
            elif j in earlier:
                received[j], counts[j] = mail[node].posts[j], earlier[j]
        own = n - sum(counts.values())
        return Letter(tuple(count / n for count in (own, *counts.values())), received)

    def _counts(self, node: int, mail: Mapping[int, Mail]) -> dict[int, int]:
        """Count the models in each message of a node's last mail, by sender."""
        if node not in mail:
            return {}
        weights = zip(mail[node].posts, mail[node].weights[1:], strict=True)
        return {sender: round(weight * len(self._tree)) for sender, weight in weights}
