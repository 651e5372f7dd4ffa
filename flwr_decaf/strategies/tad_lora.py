"""TAD-LoRA: decentralized LoRA that trains one factor at a time, over time-varying graphs."""

import logging
from typing import Any, Literal

from flwr_decaf.strategies.decentralized import DecentralizedStrategy
from flwr_decaf.strategies.relay.asynchronous import refuse_asynchronous
from flwr_decaf.strategies.relay.membership import refuse_open
from flwr_decaf.strategies.relay.resumable import Start
from flwr_decaf.strategies.relay.schedules import Phase, alternating
from flwr_decaf.strategies.relay.session import Session
from flwr_decaf.topology.mixing_steps import steps_on
from flwr_decaf.topology.phase_length import phase_length

_log = logging.getLogger("flwr")


class TADLoRA(DecentralizedStrategy):
    """Train A for T rounds, then B for T rounds; average both in every round (arXiv 2602.00451).

    ::

        A~_i = sum_j w_ij A_j,   B~_i = sum_j w_ij B_j

    While one factor is trained, the other changes only by mixing, so that the nodes agree on it and
    the interference of averaged factors stays small. A fixed T is ADF-LoRA; T = 1 with only the
    active factor mixed is RoLoRA. Since LoRA starts from B = 0, where A has no gradient, the first
    phase trains only a model's head; the order is the paper's.

    Parameters
    ----------
    phase_length : int or "auto"
        T, in rounds; by default "auto", which is the paper's Theta(1 / sqrt(1 - rho)): see
        ``network.phase_length``.
    mixes : "both" or "active"
        Factors to mix: both (the default), or only the one that is trained in the round. The other
        one is still exchanged, for nodes that lose their state.
    *args, **options
        See ``DecentralizedStrategy``. The paper draws an Erdos-Renyi graph in each round:
        ``topology="complete", dynamic="edge-activation"``.
    """

    rule = "average"
    adapters_only = True

    def __init__(
        self,
        *args: Any,
        phase_length: int | Literal["auto"] = "auto",
        mixes: Literal["both", "active"] = "both",
        **options: Any,
    ) -> None:
        is_count = isinstance(phase_length, int) and not isinstance(phase_length, bool)
        if phase_length != "auto" and not (is_count and phase_length >= 1):
            raise ValueError(
                f'phase_length must be a whole number >= 1 or "auto"; got {phase_length!r}; '
                '"auto" derives it from the network'
            )
        if mixes not in ("both", "active"):
            raise ValueError(f"mixes must be both or active; got {mixes!r}; choose one of these")
        super().__init__(*args, **options)
        if phase_length == "auto":
            why = "it follows from the number of nodes"
            refuse_open(self.membership, "tad.phase-length = auto", why)
        refuse_asynchronous(self.rounds, "tad-lora", "all nodes train the same factor in a phase")
        self.phase_length = phase_length
        self.mixes = mixes

    def schedule(self, server_round: int) -> Phase:
        """Return the factors that are trained, exchanged and mixed in a round."""
        return alternating(server_round, self._length(), self.mixes)

    def prepare(self, start: Start) -> Session:
        """Prepare a run, and log T."""
        session = super().prepare(start)
        _log.info("TAD-LoRA: T = %d rounds per phase", self._length())
        return session

    def _length(self) -> int:
        given = self.phase_length
        if given != "auto":
            return given
        return phase_length(self.network, steps_on(self.network, self.mixing_steps))
