"""Dense counterparts of ``flwr_decaf.topology.rows``, as formulas to compare with."""

from __future__ import annotations

import numpy as np


def without_nodes(w, missing):
    """Add the weights of the links of missing nodes to the diagonal, at both ends."""
    there = np.array([node not in missing for node in range(len(w))])
    kept = w * np.outer(there, there)
    np.fill_diagonal(kept, 0.0)
    return kept + np.diag(1.0 - kept.sum(axis=1))
