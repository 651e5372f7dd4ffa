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

from flwr_decaf.topology.graphs import Matrix

Masses = NDArray[np.float64]
Weigh = Callable[[Matrix, Masses], tuple[Matrix, Masses]]


def weighted_rows(w: Matrix, masses: Masses) -> tuple[Matrix, Masses]:
    """Weight the nodes of a mixing matrix by their masses.

        r_ij = w_ij m_j / m'_i,   m'_i = sum_j w_ij m_j

    This is ratio consensus (push-sum, Kempe et al. 2003): ``m'_i x'_i = sum_j w_ij m_j x_j`` mixes
    the masses, and the states times their masses, by the same W. Over a sequence of matrices whose
    product is 1 1^T / n, every node reaches ``sum_j m_j x_j / sum_j m_j``, FedAvg's average, if
    each mix starts from the masses that the previous one returned.

    Parameters
    ----------
    w : ndarray
        Mixing matrix of shape (n, n).
    masses : ndarray
        Mass of each node, of shape (n,), >= 0. A node without mass in its neighbourhood keeps its
        own state.

    Returns
    -------
    rows : ndarray
        Row-stochastic matrix of shape (n, n) on the same edges.
    masses : ndarray
        Masses after the mix; their sum is the same.

    Examples
    --------
    >>> rows, masses = weighted_rows(np.full((2, 2), 0.5), np.array([1.0, 3.0]))
    >>> rows.tolist(), masses.tolist()
    ([[0.25, 0.75], [0.25, 0.75]], [2.0, 2.0])
    """
    mixed = w @ masses
    held = (mixed > 0)[:, None]
    rows = np.divide(w * masses, mixed[:, None], where=held, out=np.eye(len(w)))
    return rows, mixed


def metropolis_rows(w: Matrix, masses: Masses) -> tuple[Matrix, Masses]:
    """Make the influence of each node proportional to its mass, by Metropolis-Hastings.

        r_ij = w_ij min(1, m_j / m_i)  for j != i,   r_ii = 1 - sum_(j != i) r_ij

    The rows are in detailed balance, ``m_i r_ij = m_j r_ji = w_ij min(m_i, m_j)``, so every mix
    preserves ``sum_i m_i x_i``, and repeated mixes over a connected graph lead every node to
    ``sum_i m_i x_i / sum_i m_i``, FedAvg's average. With equal masses, the rows are those of W.

    Detailed balance is a property of each edge. A link that is missing at both its ends, because a
    node did not answer or its post was refused, therefore leaves it intact when its weight moves to
    the diagonal, as in ``mixing_matrix.without_nodes``: the remaining nodes still preserve their
    weighted sum, and missing nodes keep their states.

    Parameters
    ----------
    w : ndarray
        Mixing matrix of shape (n, n), symmetric: the proposal distribution.
    masses : ndarray
        Mass of each node, of shape (n,), >= 0. A node without mass influences no node with mass.

    Returns
    -------
    rows : ndarray
        Row-stochastic matrix of shape (n, n) on the same edges.
    masses : ndarray
        The same masses.

    Examples
    --------
    >>> rows, _ = metropolis_rows(np.full((2, 2), 0.5), np.array([1.0, 4.0]))
    >>> rows.tolist()
    [[0.5, 0.5], [0.125, 0.875]]
    """
    least = np.minimum.outer(masses, masses)
    rows = w * np.divide(least, masses[:, None], where=masses[:, None] > 0, out=np.ones_like(w))
    np.fill_diagonal(rows, 0.0)
    # If the diagonal entry is zero, rounding may leave the sum of the row just above 1.
    np.fill_diagonal(rows, np.maximum(1.0 - rows.sum(axis=1), 0.0))
    return rows, masses
