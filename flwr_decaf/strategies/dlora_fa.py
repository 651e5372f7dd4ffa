"""DLoRA-FA: decentralized LoRA with A frozen."""

from flwr_decaf.schedules import only_b
from flwr_decaf.strategies.router import Router


class DLoRAFA(Router):
    """Train, exchange and average B alone; A is frozen and identical (arXiv 2505.21382, Fig. 4).

        B~_i = sum_j w_ij B_j,   A~_i = A_0

    Mixes products exactly, at half the bytes, with half the parameters. The train function must
    freeze A: see ``flwr_decaf.clients.freeze_factors``. Parameters: see ``Router``.
    """

    rule = "frozen"
    adapters_only = True
    schedule = staticmethod(only_b)
