"""DLoRA-FA: decentralized LoRA with A frozen."""

from flwr_decaf.strategies.decentralized import DecentralizedStrategy
from flwr_decaf.strategies.relay.schedules import only_b


class DLoRAFA(DecentralizedStrategy):
    """Train, exchange and average only B; A is frozen and shared (arXiv 2505.21382, Fig. 4).

    ::

        B~_i = sum_j w_ij B_j,   A~_i = A_0

    With ``local_head=True``, this is ConLoRA, which does not average the classification head.
    Products are mixed exactly, with half the bytes and half the parameters. The train function must
    freeze A: see ``flwr_decaf.clients.freeze_factors``. Parameters: see ``DecentralizedStrategy``.
    """

    rule = "frozen"
    adapters_only = True
    schedule = staticmethod(only_b)
