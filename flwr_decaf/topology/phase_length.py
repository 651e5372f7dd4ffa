"""The phase length of TAD-LoRA that suits a network."""

from __future__ import annotations

import math

from flwr_decaf.topology.network import Network

_NEVER = 1 - 1e-9  # a rho of at least this counts as 1: the nodes never agree


def phase_length(network: Network, steps: int = 1) -> int:
    """Return the phase length of TAD-LoRA in rounds: 1 / sqrt(1 - rho^steps), rounded.

    The paper (arXiv 2602.00451) derives T* = Theta(1 / sqrt(1 - rho)). Here the constant is 1, and
    ``steps`` mixes in a round, by default 1, contract by rho^steps.

    Raises
    ------
    ValueError
        If rho is 1, so that the nodes never agree, whatever T is.
    ModuleNotFoundError
        If the network is time-varying and SciPy is not installed.
    """
    value = network.rho.value
    if value >= _NEVER:
        raise ValueError(
            "tad.phase-length = auto needs a network whose nodes reach consensus; got rho = 1 (the "
            "graphs never connect all nodes); connect the graph, or set a number of rounds"
        )
    return max(1, round(1 / math.sqrt(1 - value**steps)))
