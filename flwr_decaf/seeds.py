"""Seeds that depend on their purpose only, never on order, time or process.

Every random draw of a run derives its seed from (seed, round, node, purpose). A run is therefore
reproducible to the bit, whichever actor runs a node and in whatever order, and an additional draw
in one place does not change any other.
"""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *context: int | str) -> int:
    """Derive an independent seed for one purpose.

    Parameters
    ----------
    seed : int
        The run's seed.
    *context : int or str
        What the draw is for, e.g. ``"batches", server_round, node``.

    Returns
    -------
    int
        A number in [0, 2**31), which NumPy, PyTorch and scikit-learn all accept.

    Examples
    --------
    >>> derive_seed(0, "batches", 1, 3) == derive_seed(0, "batches", 1, 3)
    True
    >>> derive_seed(0, "batches", 1, 3) == derive_seed(0, "batches", 3, 1)
    False
    """
    text = "/".join(map(str, (seed, *context)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**31
