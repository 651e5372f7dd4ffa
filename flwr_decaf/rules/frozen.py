"""DLoRA-FA: A is frozen and the same everywhere, so averaging B is exact (arXiv 2505.21382).

    B~ = sum_j w_j B_j,   A~ = A0,   hence   B~ A0 = sum_j w_j B_j A0

Elsewhere: ConLoRA, decentralized FFA-LoRA.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from flwr_decaf.lora import State, factor_of
from flwr_decaf.rules.average import average


def frozen(states: Sequence[State], weights: Sequence[float]) -> State:
    """Average everything but A, which stays as it is.

    Parameters
    ----------
    states : sequence of State
        The node's own first. A may be left out of all of them, since it need not travel; where
        it is present it must be the same on all.
    weights : sequence of float
        Row of the mixing matrix, summing to 1.

    Returns
    -------
    State
        Names, order, shapes and dtypes of the own state.

    Raises
    ------
    ValueError
        If two nodes hold different A: then the products do not mix exactly, and something
        (a seed per node, a train function that moves A) has broken the method.
    """
    mixed = average(states, weights)
    for name in mixed:
        if factor_of(name) == "A":
            mixed[name] = states[0][name].clone()
            if any(not torch.equal(state[name], mixed[name]) for state in states[1:]):
                raise ValueError(
                    f"DLoRA-FA needs one frozen A on all nodes; {name} differs between "
                    "neighbours; start all from the same arrays and do not train A"
                )
    return mixed
