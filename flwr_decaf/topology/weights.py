"""Weight rules: the weight of each edge of a graph in the mixing matrix.

A rule takes the edges of a graph on n nodes and returns one weight per edge; a node's own weight is
1 minus the weights of its edges. To add one, write a function here, a line in ``WEIGHTS``, and a
row in docs/topologies.md.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flwr_decaf.topology.time_varying import Edges

EdgeWeights = NDArray[np.float64]


def metropolis(edges: Edges, n: int) -> EdgeWeights:
    """Metropolis-Hastings: w_ij = 1 / (1 + max(degree_i, degree_j)), from local knowledge only."""
    return np.asarray(1.0 / (1 + node_degrees(edges, n)[edges].max(axis=1)))


def uniform(edges: Edges, n: int) -> EdgeWeights:
    """The same weight for every edge, 1 / (1 + max degree): 1/3 on a ring, 1/n if complete."""
    return np.full(len(edges), 1.0 / (1 + node_degrees(edges, n).max()))


def laplacian(edges: Edges, n: int) -> EdgeWeights:
    """Dec-LoRA's W = I - 2 L / (3 lambda_max(L)) with the graph Laplacian L (arXiv 2501.15361)."""
    lap = np.diag(node_degrees(edges, n).astype(np.float64))
    lap[edges[:, 0], edges[:, 1]] = lap[edges[:, 1], edges[:, 0]] = -1.0
    largest = float(np.linalg.eigvalsh(lap)[-1])
    return np.full(len(edges), 2 / (3 * largest) if largest > 0 else 0.0)


def metropolis_examples(edges: Edges, n: int) -> EdgeWeights:
    """Metropolis-Hastings with each node's influence proportional to its number of examples.

    The numbers are known only when the nodes have trained. This W, which is that of ``metropolis``,
    is for equal numbers; ``weighted_mixing.metropolis_rows`` then derives the rows of each mix.
    """
    return metropolis(edges, n)


WEIGHTS: dict[str, Callable[[Edges, int], EdgeWeights]] = {
    "metropolis": metropolis,
    "uniform": uniform,
    "laplacian": laplacian,
    "metropolis-examples": metropolis_examples,
}


# Rules whose W is adapted to the numbers of examples before each mix.
BY_EXAMPLES = {"metropolis-examples"}


def check_weights(weights: str) -> None:
    """Reject a name that is not in ``WEIGHTS``.

    Raises
    ------
    ValueError
        If there is no such rule.
    """
    if weights not in WEIGHTS:
        raise ValueError(
            f"topology.weights must be one of {', '.join(WEIGHTS)}; got {weights!r}; choose one of "
            "these, or provide your own matrix with topology.file"
        )


def node_degrees(edges: Edges, n: int) -> NDArray[np.int64]:
    """Count the neighbours of each node."""
    return np.bincount(edges.ravel(), minlength=n)
