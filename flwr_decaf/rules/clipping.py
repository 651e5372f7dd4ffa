"""Self-centred clipping against Byzantine nodes (He et al., ClippedGossip, arXiv 2202.01545).

    x_i + sum_j w_ij clip(x_j - x_i, tau_i),   clip(z, tau) = z min(1, tau / ||z||)

This is the same as weighting each neighbour by w_ij min(1, tau_i / ||x_j - x_i||) and adding the
remaining weight to the node's own state. x stacks the products ``B @ A`` of all layers and all
dense tensors, as in ``distances.distances_to_mean``. The products must therefore be mixed with
these weights, as DeCAF does: if the factors were averaged separately, a Byzantine neighbour at
distance 0 could still do arbitrary harm.

The paper's radius is tau_i^2 = (1 / delta_i) sum_j w_ij ||x_j - x_i||^2 over the honest neighbours,
where delta_i is the total weight of the Byzantine ones. Since it is unknown which neighbours are
honest, the sum here excludes the ``byzantine`` farthest neighbours, and delta_i is the sum of the
``byzantine`` largest weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flwr_decaf.distances import distances_to_first
from flwr_decaf.lora import State, pairs_present
from flwr_decaf.rules.contract import Rule, check_arguments
from flwr_decaf.rules.factorize import factorize


def clipping(rule: Rule, byzantine: int) -> Rule:
    """Protect a rule by clipping the neighbours' states.

    Parameters
    ----------
    rule : Rule
        Rule that mixes states without LoRA pairs, with the clipped weights: dense states, and
        states with only B, where A is frozen. States with LoRA pairs are mixed as in DeCAF.
    byzantine : int
        Number of neighbours that may be Byzantine. With 0, the rule is unchanged; a node with no
        more than ``byzantine`` neighbours keeps its own state.

    Returns
    -------
    Rule
        The protected rule.
    """

    def clipped(states: Sequence[State], weights: Sequence[float]) -> State:
        if byzantine == 0:
            return rule(states, weights)
        check_arguments(states, weights, any_rank=True, signed=False)
        mix = factorize if pairs_present(states[0]) else rule
        return mix(states, clipped_weights(states, weights, byzantine))

    return clipped


def clipped_weights(
    states: Sequence[State], weights: Sequence[float], byzantine: int
) -> list[float]:
    """Compute w_j min(1, tau / ||x_j - x_0||) per neighbour; the node's own state gets the rest.

    Parameters
    ----------
    states : sequence of State
        The node's own state first.
    weights : sequence of float
        The node's row of the mixing matrix.
    byzantine : int
        Number of neighbours that may be Byzantine, at least 1.

    Returns
    -------
    list of float
        The clipped weights, which sum to 1.

    Examples
    --------
    >>> import torch
    >>> line = [{"x": torch.tensor([place])} for place in (0.0, 1.0, 100.0)]
    >>> clipped_weights(line, [0.5, 0.25, 0.25], byzantine=1)
    [0.7475, 0.25, 0.0025]
    """
    distance = distances_to_first(states)
    nearest_first = sorted(range(1, len(states)), key=distance.__getitem__)
    largest = sum(sorted(weights[1:])[-byzantine:])
    if largest == 0.0:  # the node has no neighbours
        return list(weights)
    trusted = nearest_first[:-byzantine]
    tau = math.sqrt(sum(weights[j] * distance[j] ** 2 for j in trusted) / largest)
    clipped = [
        weight * (min(1.0, tau / far) if far else 1.0)
        for weight, far in zip(weights[1:], distance[1:], strict=True)
    ]
    return [max(1.0 - sum(clipped), 0.0), *clipped]
