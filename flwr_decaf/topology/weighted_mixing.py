"""Weighted mixing: averages that weight nodes by their numbers of examples, as in FedAvg."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flwr_decaf.topology.graphs import Matrix

Masses = NDArray[np.float64]


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
