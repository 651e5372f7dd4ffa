"""DLoRA-FA freezes one A on all nodes, so that averaging B is exact (arXiv 2505.21382).

    B~ = sum_j w_j B_j,   A~ = A0,   hence   B~ A0 = sum_j w_j B_j A0

Also known as ConLoRA, and as decentralized FFA-LoRA.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from flwr_decaf.lora import State, factor_of
from flwr_decaf.rules.average import average


def frozen(states: Sequence[State], weights: Sequence[float]) -> State:
    """Average all tensors except A, which is left unchanged.

    Parameters
    ----------
    states : sequence of State
        The node's own state first. A may be missing from all of them, since it need not be
        exchanged; if it is present, it must be the same in all.
    weights : sequence of float
        The node's row of the mixing matrix, which sums to 1.

    Returns
    -------
    State
        Has the names, order, shapes and dtypes of the node's own state.

    Raises
    ------
    ValueError
        If the states do not match, the weights do not sum to 1, or two nodes have different A, in
        which case averaging B is not exact. Possible causes are a different seed on each node, or a
        train function that updates A.
    """
    mixed = average(states, weights)
    for name in mixed:
        if factor_of(name) == "A":
            mixed[name] = states[0][name].clone()
            if any(not torch.equal(state[name], mixed[name]) for state in states[1:]):
                raise ValueError(
                    f"DLoRA-FA needs the same frozen A on all nodes; {name} differs between "
                    "neighbours; start all nodes from the same arrays and do not train A"
                )
    return mixed
