"""Rows of W: the weights with which nodes mix in one exchange, without the zeros.

W has n² entries, of which a sparse graph uses few. What a relay does in an exchange takes time and
memory in proportion to the number of edges.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flwr_decaf.topology.graphs import Matrix
from flwr_decaf.topology.mixing_matrix import Links

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rows:
    """The non-zero entries of a row-stochastic matrix: ``w[nodes[k], others[k]] = weights[k]``.

    Attributes
    ----------
    own : ndarray
        The diagonal: the weight of each node's own state, of shape (n,).
    nodes, others : ndarray
        Rows and columns of the entries off the diagonal, of shape (entries,), in ascending order
        of rows, then columns.
    weights : ndarray
        These entries, > 0.
    """

    own: Floats
    nodes: Indices
    others: Indices
    weights: Floats

    def __post_init__(self) -> None:
        for array in (self.own, self.nodes, self.others, self.weights):
            array.setflags(write=False)  # a network hands out the same rows to all who ask

    def row(self, node: int) -> tuple[float, dict[int, float]]:
        """Return the weight of a node's own state, and those of its neighbours."""
        start, end = np.searchsorted(self.nodes, (node, node + 1))
        others, weights = self.others[start:end].tolist(), self.weights[start:end].tolist()
        return float(self.own[node]), dict(zip(others, weights, strict=True))

    def neighbours(self, node: int) -> list[int]:
        """List the neighbours whose posts a node mixes, in ascending order."""
        return list(self.row(node)[1])

    @property
    def degrees(self) -> Indices:
        """Number of neighbours whose posts each node mixes."""
        return np.bincount(self.nodes, minlength=len(self.own))

    @property
    def readers(self) -> Indices:
        """Number of nodes that mix the post of each node; its degree, if W is symmetric."""
        return np.bincount(self.others, minlength=len(self.own))

    def matrix(self) -> Matrix:
        """Return the matrix of shape (n, n)."""
        w = np.diag(self.own)
        w[self.nodes, self.others] = self.weights
        return w

    def times(self, x: Floats) -> Floats:
        """Multiply by a vector of shape (n,)."""
        return self.own * x + self._sums(self.weights * x[self.others])

    def without(self, missing: Collection[int]) -> Rows:
        """Drop the links of nodes that are missing in an exchange.

        The weight of a dropped link is added to the weights that both its nodes give to their own
        states. A symmetric matrix stays symmetric and doubly stochastic on the remaining nodes, and
        is the identity on the missing ones. If no node is missing, the rows themselves are
        returned.

        Examples
        --------
        >>> rows_of_matrix(np.full((3, 3), 1 / 3)).without({2}).matrix().round(2).tolist()
        [[0.67, 0.33, 0.0], [0.33, 0.67, 0.0], [0.0, 0.0, 1.0]]
        """
        if not missing:
            return self
        there = np.ones(len(self.own), dtype=bool)
        there[list(missing)] = False
        return self.with_weights(self.weights * (there[self.nodes] & there[self.others]))

    def with_weights(self, weights: Floats, own: Floats | None = None) -> Rows:
        """Replace the weights of all entries, and drop those that are zero.

        Parameters
        ----------
        weights : ndarray
            New weights, >= 0.
        own : ndarray, optional
            New diagonal; by default what is missing in each row to 1.
        """
        if own is None:
            # If the diagonal entry is zero, rounding may leave the sum of the row just above 1.
            own = np.maximum(1.0 - self._sums(weights), 0.0)
        kept = weights > 0
        return Rows(own, self.nodes[kept], self.others[kept], weights[kept])

    def _sums(self, values: Floats) -> Floats:
        """Sum values of entries by row."""
        sums = np.bincount(self.nodes, values, minlength=len(self.own))
        return sums.astype(np.float64, copy=False)


def rows_of(links: Links, n: int) -> Rows:
    """Convert links on n nodes to rows; the own weights make each row sum to 1."""
    i, j = links.edges.T
    nodes, others = np.concatenate([i, j]), np.concatenate([j, i])
    order = np.lexsort((others, nodes))
    blank = Rows(np.ones(n), nodes[order], others[order], np.empty(0))
    return blank.with_weights(np.concatenate([links.weights, links.weights])[order])


def rows_of_matrix(w: Matrix) -> Rows:
    """List the non-zero entries of a mixing matrix."""
    nodes, others = np.nonzero(w)
    off = nodes != others
    nodes, others = nodes[off], others[off]
    return Rows(w.diagonal().copy(), nodes, others, w[nodes, others])
