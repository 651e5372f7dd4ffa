"""Seeds as a function of what they are for, never of order, time or process.

Every draw in a run derives its seed from (seed, round, node, purpose). So a run repeats to the
bit whatever actor runs a node and in whatever order, and one draw more in one place does not
shift all others.
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
        A number in [0, 2**31), the range that numpy, torch and scikit-learn all take.

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
