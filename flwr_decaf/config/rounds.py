"""Options of asynchronous rounds, in which no node waits for another."""

from __future__ import annotations

from dataclasses import dataclass

from flwr_decaf.checks import at_least, one_of, positive_share
from flwr_decaf.config.options import Options
from flwr_decaf.config.setting import setting


@dataclass(frozen=True)
class Rounds(Options):
    """Whether nodes wait for one another.

    Parameters
    ----------
    mode : str
        "synchronous": a round ends when all nodes have answered; or "asynchronous": each node
        continues at once with what its neighbours have posted. By default "synchronous".
    max_staleness : int
        In asynchronous rounds, the largest difference between the rounds of two neighbours that
        exchange posts; the posts of others count as missing. By default 0: any difference. See
        ``topology.asynchronous``.
    finished_share : float
        Share of the nodes that must complete all rounds before an asynchronous run ends; the others
        then stop after their current training. By default 0.5.
    """

    mode: str = setting(
        "synchronous",
        "Whether a round ends when all nodes have answered (synchronous), or each node continues "
        "at once with what its neighbours have posted (asynchronous).",
        one_of(["synchronous", "asynchronous"]),
    )
    max_staleness: int = setting(
        0,
        "Largest difference between the rounds of neighbours that exchange posts, with rounds.mode "
        "asynchronous; 0: any.",
        at_least(0, "0 does not limit the difference"),
    )
    finished_share: float = setting(
        0.5,
        "Share of the nodes that must complete num-server-rounds before an asynchronous run ends; "
        "the others then stop after their current training.",
        positive_share("1 waits for the slowest node"),
    )

    @property
    def asynchronous(self) -> bool:
        """Whether nodes do not wait for one another."""
        return self.mode == "asynchronous"
