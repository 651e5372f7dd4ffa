"""Weighted mixing: averages that weight nodes by their numbers of examples, as in FedAvg.

Which of the two functions fits depends on the number of mixes between two trainings.
``weighted_rows`` gives every node FedAvg's average if the mixes of a round reach consensus. With a
single mix by a constant W, however, the influence of node i in the long run is not its mass m_i but
``m_i sum_j w_ij m_j``. ``metropolis_rows`` makes it m_i on every graph, but mixes more slowly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flwr_decaf.topology.rows import Rows

Masses = NDArray[np.float64]
Weigh = Callable[[Rows, Masses], tuple[Rows, Masses]]


def weighted_rows(rows: Rows, masses: Masses) -> tuple[Rows, Masses]:
    """Weight the nodes of a mixing matrix by their masses.

        r_ij = w_ij m_j / m'_i,   m'_i = sum_j w_ij m_j

    This is ratio consensus (push-sum, Kempe et al. 2003): ``m'_i x'_i = sum_j w_ij m_j x_j`` mixes
    the masses, and the states times their masses, by the same W. Over a sequence of matrices whose
    product is 1 1^T / n, every node reaches ``sum_j m_j x_j / sum_j m_j``, FedAvg's average, if
    each mix starts from the masses that the previous one returned.

    Parameters
    ----------
    rows : Rows
        Rows of a mixing matrix W of shape (n, n).
    masses : ndarray
        Mass of each node, of shape (n,), >= 0. A node without mass in its neighbourhood keeps its
        own state.

    Returns
    -------
    rows : Rows
        Row-stochastic matrix on the same edges.
    masses : ndarray
        Masses after the mix; their sum is the same.

    Examples
    --------
    >>> from flwr_decaf.topology.rows import rows_of_matrix
    >>> half = rows_of_matrix(np.full((2, 2), 0.5))
    >>> rows, masses = weighted_rows(half, np.array([1.0, 3.0]))
    >>> rows.matrix().tolist(), masses.tolist()
    ([[0.25, 0.75], [0.25, 0.75]], [2.0, 2.0])
    """
    mixed = rows.times(masses)
    held = mixed > 0
    own = np.divide(rows.own * masses, mixed, where=held, out=np.ones_like(mixed))
    weights, by_row = rows.weights * masses[rows.others], mixed[rows.nodes]
    weights = np.divide(weights, by_row, where=held[rows.nodes], out=np.zeros_like(weights))
    return rows.with_weights(weights, own), mixed


def metropolis_rows(rows: Rows, masses: Masses) -> tuple[Rows, Masses]:
    """Make the influence of each node proportional to its mass, by Metropolis-Hastings.

        r_ij = w_ij min(1, m_j / m_i)  for j != i,   r_ii = 1 - sum_(j != i) r_ij

    The rows are in detailed balance, ``m_i r_ij = m_j r_ji = w_ij min(m_i, m_j)``, so every mix
    preserves ``sum_i m_i x_i``, and repeated mixes over a connected graph lead every node to
    ``sum_i m_i x_i / sum_i m_i``, FedAvg's average. With equal masses, the rows are those of W.

    Detailed balance is a property of each edge. A link that is missing at both its ends, because a
    node did not answer or its post was refused, therefore leaves it intact when its weight moves to
    the diagonal, as in ``Rows.without``: the remaining nodes still preserve their
    weighted sum, and missing nodes keep their states.

    Parameters
    ----------
    rows : Rows
        Rows of a mixing matrix W of shape (n, n), symmetric: the proposal distribution.
    masses : ndarray
        Mass of each node, of shape (n,), >= 0. A node without mass influences no node with mass.

    Returns
    -------
    rows : Rows
        Row-stochastic matrix on the same edges.
    masses : ndarray
        The same masses.

    Examples
    --------
    >>> from flwr_decaf.topology.rows import rows_of_matrix
    >>> half = rows_of_matrix(np.full((2, 2), 0.5))
    >>> rows, _ = metropolis_rows(half, np.array([1.0, 4.0]))
    >>> rows.matrix().tolist()
    [[0.5, 0.5], [0.125, 0.875]]
    """
    mine, theirs = masses[rows.nodes], masses[rows.others]
    accepted = np.divide(np.minimum(mine, theirs), mine, where=mine > 0, out=np.ones_like(mine))
    return rows.with_weights(rows.weights * accepted), masses
