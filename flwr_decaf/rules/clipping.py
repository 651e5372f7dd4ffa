"""Self-centred clipping against nodes that lie (He et al., ClippedGossip, arXiv 2202.01545).

    x_i + sum_j w_ij clip(x_j - x_i, tau_i),   clip(z, tau) = z min(1, tau / ||z||)

which is the same as weighing each neighbour by w_ij min(1, tau_i / ||x_j - x_i||), the rest of
the weight going to the node's own. x stacks the products ``B @ A`` of all layers and all dense
tensors, as in ``metrics.distances_to_mean``; so it is the products that must be mixed with these
weights, as DeCAF does: averaged one by one, the factors of a liar at distance 0 could do any harm.

The paper's radius is tau_i^2 = (1 / delta_i) sum_j w_ij ||x_j - x_i||^2 over the honest neighbours,
with delta_i the weight of the liars. Who is honest is not known: here the sum leaves out the
``liars`` neighbours that are farthest away, and delta_i is the weight of the heaviest ``liars``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flwr_decaf.distances import distances_to_first
from flwr_decaf.lora import State, pairs_present
from flwr_decaf.rules.contract import Rule, check_arguments
from flwr_decaf.rules.factorize import factorize


def clipping(rule: Rule, liars: int) -> Rule:
    """Make a rule clip what neighbours say.

    Parameters
    ----------
    rule : Rule
        Mixes with the weights that clipping leaves where there are no products: dense states, and
        B alone where A is frozen.
    liars : int
        Neighbours that may lie. A node with no more neighbours than that keeps its own.
    """

    def clipped(states: Sequence[State], weights: Sequence[float]) -> State:
        check_arguments(states, weights)
        if liars == 0:
            return rule(states, weights)
        mix = factorize if pairs_present(states[0]) else rule
        return mix(states, clipped_weights(states, weights, liars))

    return clipped


def clipped_weights(states: Sequence[State], weights: Sequence[float], liars: int) -> list[float]:
    """Weigh each neighbour by w_j min(1, tau / ||x_j - x_0||), the own state by what is left.

    Examples
    --------
    >>> import torch
    >>> line = [{"x": torch.tensor([place])} for place in (0.0, 1.0, 100.0)]
    >>> clipped_weights(line, [0.5, 0.25, 0.25], liars=1)
    [0.7475, 0.25, 0.0025]
    """
    far = distances_to_first(states)
    others = sorted(range(1, len(states)), key=far.__getitem__)
    heaviest = sum(sorted(weights[1:])[-liars:])
    if heaviest == 0.0:  # there is nobody else
        return list(weights)
    trusted = others[:-liars]
    tau = math.sqrt(sum(weights[j] * far[j] ** 2 for j in trusted) / heaviest)
    kept = [weights[j] * (min(1.0, tau / far[j]) if far[j] else 1.0) for j in range(1, len(states))]
    return [max(1.0 - sum(kept), 0.0), *kept]
