"""DLoRA: decentralized LoRA that averages each factor separately."""

from flwr_decaf.strategies.decentralized import DecentralizedStrategy


class DLoRA(DecentralizedStrategy):
    """Average A and B separately over the neighbourhood (arXiv 2505.21382).

    ::

        A~_i = sum_j w_ij A_j,   B~_i = sum_j w_ij B_j

    Both factors are trained and exchanged. The product of the averaged factors differs from the
    average of the products by the interference ``sum_j w_ij (B_j - B~_i)(A_j - A~_i)``. On models
    without LoRA, this is decentralized parallel SGD. Parameters: see ``DecentralizedStrategy``.
    """

    rule = "average"
