"""DeCAF: decentralized LoRA that averages products."""

from flwr_decaf.strategies.decentralized import DecentralizedStrategy


class DeCAF(DecentralizedStrategy):
    """Average the products and factorize them again (arXiv 2505.21382, Fig. 1).

    ::

        P_i = sum_j w_ij B_j A_j ~ U_r S_r V_r^T,   B~_i = U_r S_r^(1/2),   A~_i = S_r^(1/2) V_r^T

    Both factors are trained and exchanged, never the dense product. The factorization is exact if
    rank(P_i) <= r. Parameters: see ``DecentralizedStrategy``.
    """

    rule = "factorize"
    adapters_only = True
