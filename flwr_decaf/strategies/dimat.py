"""DIMAT: decentralized training of whole models that are matched before averaging."""

from flwr_decaf.strategies.decentralized import DecentralizedStrategy


class DIMAT(DecentralizedStrategy):
    """Match each neighbour's hidden units to the node's own, then average (arXiv 2404.08079).

    ::

        x~_i = sum_j w_ij P_ij x_j,   P_ii = I

    P_ij permutes the units of neighbour j, group by group, so that their activations correlate most
    with those of node i; batch-norm statistics are then recomputed. Nodes may start from different
    initializations. The client does the alignment, which needs a model and data: see
    ``flwr_decaf.clients.peer_mixing_with``. The data is the node's own; the authors use the
    training data of all nodes. Parameters: see ``DecentralizedStrategy``.
    """

    rule = "matched"
