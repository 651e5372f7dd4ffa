"""DeCAF: decentralized LoRA that averages products."""

from collections.abc import Sequence
from typing import Any

from flwr_decaf.lora import State, pairs
from flwr_decaf.rules.ranks import at_rank
from flwr_decaf.strategies.decentralized import DecentralizedStrategy
from flwr_decaf.strategies.relay.membership import refuse_open
from flwr_decaf.topology.conversion import TopologyLike


class DeCAF(DecentralizedStrategy):
    """Average the products and factorize them again (arXiv 2505.21382, Fig. 1).

    ::

        P_i = sum_j w_ij B_j A_j ~ U_r S_r V_r^T,   B~_i = U_r S_r^(1/2),   A~_i = S_r^(1/2) V_r^T

    Both factors are trained and exchanged, never the dense product. The factorization is exact if
    rank(P_i) <= r.

    Parameters
    ----------
    topology : str, path, networkx.Graph, ndarray, Tensor or list of lists
        See ``DecentralizedStrategy``.
    ranks : sequence of int
        Ranks of the nodes, used in turn: node i has rank ``ranks[i % len(ranks)]``, receives arrays
        of that rank, and truncates P_i to it. By default empty: every node has the rank of the
        initial arrays, which none may exceed. The scale of the product, alpha / rank in PEFT,
        must be the same at all nodes.
    **options
        See ``DecentralizedStrategy``.

    Raises
    ------
    TypeError, ValueError
        As ``DecentralizedStrategy``; a ValueError also if a rank is not a whole number >= 1, or,
        once a run starts, exceeds that of the initial arrays.
    """

    rule = "factorize"
    adapters_only = True

    def __init__(
        self, topology: TopologyLike = "ring", *, ranks: Sequence[int] = (), **options: Any
    ) -> None:
        for rank in ranks:
            if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
                raise ValueError(
                    f"ranks must be whole numbers >= 1; got {rank!r}; write e.g. ranks=[2, 4, 8]"
                )
        super().__init__(topology, **options)
        if ranks:
            why = "a newcomer starts from a neighbour's factors, which have another rank"
            refuse_open(self.membership, "ranks (lora.ranks)", why)
        self.ranks = tuple(ranks)

    def _starts(self, initial: State, n: int) -> list[State]:
        if not self.ranks:
            return super()._starts(initial, n)
        held = max(len(initial[pair.a]) for pair in pairs(initial))
        if max(self.ranks) > held:
            raise ValueError(
                f"ranks must be at most the rank of the initial arrays, {held}; got "
                f"{max(self.ranks)}; pass arrays of the largest rank"
            )
        kinds = {rank: at_rank(initial, rank) for rank in set(self.ranks)}
        return [kinds[self.ranks[node % len(self.ranks)]] for node in range(n)]
