"""Gradient tracking: decentralized LoRA that corrects each node's training towards the mean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flwr_decaf.lora import State
from flwr_decaf.messages.mail import Mail
from flwr_decaf.rules.tracking import with_tracking
from flwr_decaf.strategies.decentralized import DecentralizedStrategy
from flwr_decaf.strategies.relay.checks import check_only
from flwr_decaf.topology.conversion import TopologyLike
from flwr_decaf.topology.weights import BY_EXAMPLES


class GradientTracking(DecentralizedStrategy):
    """Average A and B as DLoRA does, and follow the mean change of all nodes (arXiv 2301.01313).

    ::

        Delta_i = x_i+ - x_i
        y_i     = Delta_i + c_i,   p_i = x_i + y_i
        x~_i    = sum_j w_ij p_j,  y~_i = sum_j w_ij y_j,  c_i = y~_i - Delta_i

    x_i is the model (A, B and all other tensors) before training and x_i+ after it; c_i is 0 in the
    first round. Since the corrections sum to 0 over the nodes, the mean model moves by the mean
    change, as with DLoRA, while each node is no longer drawn towards the optimum of its own data.
    Nodes exchange p and y, which is twice as many bytes as DLoRA sends. See
    ``flwr_decaf.rules.tracking`` for the papers, and for where we depart from them.

    A node that misses rounds keeps its Delta, so the sums hold for all nodes. The relay keeps an
    exact copy of each node's p, y and Delta, from which a node that lost its state continues.

    Robust rules, attacks, weights by numbers of examples, open membership and asynchronous rounds
    are refused: they do not preserve the sums. Parameters: see ``DecentralizedStrategy``.

    Raises
    ------
    ValueError
        If an option does not apply.
    """

    rule = "average"

    def __init__(self, topology: TopologyLike = "ring", **options: Any) -> None:
        super().__init__(topology, **options)
        given = (
            ("robust.method", self.robust.method, "none"),
            ("attack.sign-flipping", self.attack.sign_flipping, 0),
            ("weighted-mixing", str(self.weighted_mixing).lower(), "false"),
            ("topology.membership", self.membership.membership, "closed"),
            ("rounds.mode", self.rounds.mode, "synchronous"),
        )
        check_only(given, "gradient-tracking, whose mixes must preserve the sum over the nodes")
        if self.graph.weights in BY_EXAMPLES:
            raise ValueError(
                f"topology.weights must not be {self.graph.weights} with gradient-tracking, whose "
                "mixes must preserve the sum over the nodes; omit it, or use dlora"
            )

    def _starts(self, initial: State, n: int) -> list[State]:
        return [with_tracking(initial)] * n

    def _blank_mail(self) -> Mail:
        return replace(super()._blank_mail(), copied=True)  # a post does not contain Delta
