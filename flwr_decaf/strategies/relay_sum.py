"""RelaySum: forward models along a tree, so that every node averages the models of all nodes."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np

from flwr_decaf.messages.mail import Mail
from flwr_decaf.strategies.decentralized import DecentralizedStrategy
from flwr_decaf.strategies.relay.addressing import Addressing, Relayed
from flwr_decaf.strategies.relay.checks import check_only
from flwr_decaf.strategies.relay.resumable import Start
from flwr_decaf.strategies.relay.session import Session
from flwr_decaf.topology.conversion import TopologyLike
from flwr_decaf.topology.mixing_matrix import graph_of
from flwr_decaf.topology.network import Network
from flwr_decaf.topology.trees import tree_network

_log = logging.getLogger("flwr")


class RelaySum(DecentralizedStrategy):
    """Average A and B over all nodes, with delays, along a tree (Vogels et al., arXiv 2110.04175).

    ::

        m_(i->j)^t = x_i^t + sum_(k != j) m_(k->i)^(t-1)
        x~_i = (x_i^t + sum_j m_(j->i)^t + (n - count) x_i^t) / n

    x_i is the trained adapter of node i, m_(i->j) its message to its neighbour j, and ``count`` the
    number of models in the sum. The model of a node that is d edges away arrives d - 1 rounds after
    it was trained; until the first one arrives, the node's own model takes its place. The paper
    sends sums and counts; here, messages contain means: see ``flwr_decaf.clients.relaying``. A node
    sends one message along each of its edges, which is as many bytes as DLoRA sends on the same
    tree.

    If a node is missing in a round, the last message from its side of the tree is used again.

    The graph is reduced to a spanning tree, which is logged. Since models are added up on their
    way, they are averaged tensor by tensor, as in DLoRA. Mixing weights, time-varying graphs,
    robust rules, attacks, quantized or encrypted posts, open membership and asynchronous rounds are
    refused. Parameters: see ``DecentralizedStrategy``.

    Raises
    ------
    ValueError
        If an option does not apply, or if there is no spanning tree.
    """

    rule = "average"

    def __init__(self, topology: TopologyLike = "binary-tree", **options: Any) -> None:
        super().__init__(topology, **options)
        is_matrix = isinstance(self.graph.topology, np.ndarray)
        weights = options.get("weights") or ("a matrix" if is_matrix else "auto")
        given = (
            ("topology.weights", weights, "auto"),
            ("topology.dynamic", self.graph.dynamic, "static"),
            ("robust.method", self.robust.method, "none"),
            ("attack.sign-flipping", self.attack.sign_flipping, 0),
            ("posts.dtype", self.posts.dtype, "fp32"),
            ("posts.encryption", self.posts.encryption, "none"),
            ("weighted-mixing", str(self.weighted_mixing).lower(), "false"),
            ("topology.membership", self.membership.membership, "closed"),
            ("rounds.mode", self.rounds.mode, "synchronous"),
        )
        check_only(given, "relay-sum, which averages all models with equal weights along a tree")

    def network_on(self, n: int) -> Network:
        """Build the spanning tree on n nodes."""
        self.network = tree_network(super().network_on(n))
        return self.network

    def prepare(self, start: Start) -> Session:
        """Prepare a run, and log the largest delay."""
        session = super().prepare(start)
        rounds = nx.diameter(graph_of(self.network.base), usebounds=True)
        _log.info("RelaySum: every model reaches all nodes within %d rounds", rounds)
        return session

    def _addressing(self) -> Addressing:
        return Relayed(graph_of(self.network.base))

    def _blank_mail(self) -> Mail:
        return replace(super()._blank_mail(), nodes=len(self.network.base))
