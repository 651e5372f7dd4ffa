"""How much the rounds of a time-varying network contract disagreement on average.

All matrices are sparse: a thousand nodes take well under a second, whereas the mean of W^T W as a
dense matrix takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array, vstack
from scipy.sparse.linalg import splu

from flwr_decaf.topology.mixing_matrix import Links

Vector = NDArray[np.float64]
_ROUNDING = 1e-12
_ITERATIONS = 50
_SHIFT = 1e-7
_CHEAP = 1e7  # the sparse product is formed up to this number of multiplications


def contraction_of(rounds: Sequence[Links], n: int, exact: bool) -> tuple[float, float]:
    """Compute the second largest eigenvalue of E[W^T W]; the largest, that of consensus, is 1.

    Parameters
    ----------
    rounds : sequence of Links
        The links of W in each round.
    n : int
        Number of nodes.
    exact : bool
        Whether these are all rounds, or a sample of at least four. Since the largest eigenvalue of
        a sample mean is biased upwards, the slowest direction is found on one half of the sample
        and its contraction is measured on the other.

    Returns
    -------
    eigenvalue, standard_error : float
        The eigenvalue is in [0, 1], and 0 for a single node; the standard error is 0 if ``exact``.
    """
    if n == 1:
        return 0.0, 0.0
    matrices = [_sparse(links, n) for links in rounds]
    if exact:
        mean = sum((w.T @ w).toarray() for w in matrices) / len(matrices)
        # Subtracting 2 / n from each entry moves the eigenvalue of consensus from 1 to -1.
        return _capped(np.linalg.eigvalsh(mean - 2 / n)[-1]), 0.0
    halves = matrices[::2], matrices[1::2]
    seen = [_contractions(halves[i], _slowest(halves[1 - i])) for i in (0, 1)]
    values = np.concatenate(seen)
    return _capped(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _capped(value: float) -> float:
    return 1.0 if value > 1 - _ROUNDING else float(value)


def _sparse(links: Links, n: int) -> csr_array:
    (i, j), w, every = links.edges.T, links.weights, np.arange(n)
    own = 1.0 - np.bincount(links.edges.ravel(), w.repeat(2), n)
    places = np.concatenate([i, j, every]), np.concatenate([j, i, every])
    return csr_array((np.concatenate([w, w, own]), places), shape=(n, n))


def _contractions(rounds: Sequence[csr_array], v: Vector) -> Vector:
    """Compute ||W v||^2 for each round."""
    moved = vstack(rounds, format="csr") @ v
    return np.asarray((moved.reshape(len(rounds), len(v)) ** 2).sum(axis=1))


def _slowest(rounds: Sequence[csr_array]) -> Vector:
    """Find the unit vector, orthogonal to consensus, that the rounds contract the least."""
    stacked = vstack(rounds, format="csr")
    step = _inverse(stacked, len(rounds)) or (lambda x: stacked.T @ (stacked @ x))
    x = np.random.default_rng(0).normal(size=stacked.shape[1])
    for _ in range(_ITERATIONS):
        x -= x.mean()
        x /= np.linalg.norm(x) or 1.0
        x = np.asarray(step(x))
    x -= x.mean()
    return np.asarray(x / (np.linalg.norm(x) or 1.0))


def _inverse(stacked: csr_array, rounds: int) -> Callable[[Vector], Vector] | None:
    """Return the step of inverse iteration, or None if the rounds are too dense for it.

    On sparse graphs, the eigenvalues are close together just below 1, and plain power iteration
    takes thousands of steps. Dense rounds contract all directions alike, so that power iteration
    suffices.
    """
    if (np.diff(stacked.indptr).astype(float) ** 2).sum() > _CHEAP:
        return None
    mean = (stacked.T @ stacked) / rounds
    return splu(((1 + _SHIFT) * eye_array(stacked.shape[1]) - mean).tocsc()).solve
