"""Dec-LoRA: decentralized LoRA with the paper's Laplacian weights."""

from flwr_decaf.strategies.decentralized import DecentralizedStrategy


class DecLoRA(DecentralizedStrategy):
    """Average A and B separately, with weights from the graph's Laplacian (arXiv 2501.15361).

    ::

        A~_i = sum_j q_ij A_j,   B~_i = sum_j q_ij B_j,   Q = I - 2 L / (3 lambda_max(L))

    The eigenvalues of Q are in [1/3, 1]. Both factors are trained (K local steps) and exchanged.
    The paper evaluates the average of the nodes' models, which ``evaluate-average`` reports.
    Parameters: see ``DecentralizedStrategy``.
    """

    rule = "average"
    own_weights = "laplacian"
