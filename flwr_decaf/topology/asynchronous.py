"""Asynchronous mixing: the rows of W of the nodes that mix now, whatever the others do.

When node i has trained, it mixes the newest posts of its neighbours j, with its row of W:

    x_i <- r_ii p_i + sum_(j in F) w_ij p_j,   r_ii = 1 - sum_(j in F) w_ij

F are the neighbours whose newest post has at most the allowed staleness: the number of times that i
has mixed since it arrived. All other models stay as they are. The row sums to 1, but the columns of
this update do not, so a single mix changes the mean of the models. What is kept depends on the
largest staleness. Let r_i be the rate at which node i trains.

* With 0, a node mixes each post at most once, so the pair (i, j) mixes at the rate
  ``w_ij min(r_i, r_j)`` in both directions. This is symmetric: the mean of the models is preserved
  in expectation, and every training counts the same, so that a node that trains five times as often
  has five times the influence.
* Without a limit, i mixes its neighbours' posts at the rate ``w_ij r_i``, some of them repeatedly.
  The influence of a model is then proportional to 1 / r_i. Every node counts the same, whatever its
  speed; in return, the models of slow nodes hold the others back.

Neither depends on how the speeds are distributed. W is doubly stochastic in expectation, in the
sense above, only with 0, or if all nodes are equally fast. A post was trained from an older model
than that of the node which mixes it; the convergence of such algorithms is analysed for AD-PSGD
(arXiv 1710.06952), where pairs of nodes average atomically, and for SWIFT (arXiv 2210.14026), whose
nodes also mix the last models of their neighbours without waiting, but with weights that are
derived from known rates. Here, rates are unknown and follow from what arrives.

If all posts arrive at the same time, the rows are those of W.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from flwr_decaf.topology.rows import Floats, Rows


class Staleness:
    """How often each node has mixed since the newest post of each neighbour arrived.

    Parameters
    ----------
    rows : Rows
        Rows of a mixing matrix W.

    Attributes
    ----------
    of_links : ndarray
        Staleness of the newest post of ``rows.others[k]`` at ``rows.nodes[k]``, of shape
        (entries,); infinite before the first post.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.of_links: Floats = np.full(len(rows.weights), np.inf)

    def arrived(self, nodes: Iterable[int]) -> None:
        """Note that nodes have new posts."""
        self.of_links[np.isin(self._rows.others, list(nodes))] = 0

    def mixed(self, nodes: Iterable[int]) -> None:
        """Note that nodes mix what has arrived."""
        self.of_links[np.isin(self._rows.nodes, list(nodes))] += 1

    def at(self, node: int) -> dict[int, int]:
        """Return the staleness of the newest posts of a node's neighbours that have posted."""
        own = np.flatnonzero((self._rows.nodes == node) & np.isfinite(self.of_links))
        return {int(self._rows.others[k]): int(self.of_links[k]) for k in own}

    def restore(self, node: int, staleness: Mapping[int, int]) -> None:
        """Restore what ``at`` returned."""
        for other, value in staleness.items():
            self.of_links[(self._rows.nodes == node) & (self._rows.others == other)] = value

    def rows(self, largest: float) -> Rows:
        """Return the rows by which nodes mix now, without links whose posts are too stale.

        The weight of a dropped link is added to the node's own weight; unlike in ``Rows.without``,
        not to that of the neighbour, which does not mix now.

        Parameters
        ----------
        largest : float
            The largest staleness with which a post is mixed.

        Examples
        --------
        >>> from flwr_decaf.topology.rows import rows_of_matrix
        >>> staleness = Staleness(rows_of_matrix(np.full((3, 3), 1 / 3)))
        >>> staleness.arrived([0, 1])
        >>> staleness.rows(0).row(0)
        (0.6666666666666667, {1: 0.3333333333333333})
        """
        fresh = self.of_links <= largest
        # If nothing is dropped, the own weights are kept as they are, to the bit.
        return self._rows if fresh.all() else self._rows.with_weights(self._rows.weights * fresh)

    def means_of(self, node: int, largest: float, of_nodes: Floats) -> tuple[float, float]:
        """Average over the posts that a node mixes now; 0 if there are none.

        Returns
        -------
        staleness : float
            Mean staleness.
        value : float
            Mean of the senders' entries in ``of_nodes``.
        """
        mixed = (self._rows.nodes == node) & (self.of_links <= largest)
        if not mixed.any():
            return 0.0, 0.0
        return float(self.of_links[mixed].mean()), float(of_nodes[self._rows.others[mixed]].mean())
