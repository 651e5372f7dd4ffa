"""DIMAT: decentralized training of whole models that are matched before they are averaged."""

from flwr_decaf.strategies.decentralized import DecentralizedStrategy


class DIMAT(DecentralizedStrategy):
    """Match each neighbour's hidden units to the node's own, then average (arXiv 2404.08079).

    ::

        x~_i = sum_j w_ij P_ij x_j,   P_ii = I

    P_ij permutes the units of neighbour j, group by group, so that their activations correlate most
    with those of node i; batch-norm statistics are then recomputed. Nodes may start from different
    initialisations. The alignment needs a model and data: the node's own, where the authors take
    the training data of all nodes. It is the client's part: see
    ``flwr_decaf.clients.peer_mixing_with``. Parameters: see ``DecentralizedStrategy``.
    """

    rule = "matched"
