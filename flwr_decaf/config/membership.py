"""Options of open membership, in which nodes join and leave a run between its rounds."""

from __future__ import annotations

from dataclasses import dataclass

from flwr_decaf.checks import at_least, one_of
from flwr_decaf.config.options import Options
from flwr_decaf.config.setting import setting


@dataclass(frozen=True)
class Membership(Options):
    """Nodes that join and leave between rounds.

    Parameters
    ----------
    membership : str
        "closed": the nodes of the first round are those of the whole run; or "open": nodes join and
        leave between rounds, and the graph is rebuilt for those that are there. By default
        "closed".
    quorum : int
        Number of nodes with which an open run starts; by default, and for 0, all
        ``num-partitions``.
    leave_after : int
        Number of successive rounds that a node of an open run misses before it counts as having
        left; by default 3.
    """

    membership: str = setting(
        "closed",
        "Whether nodes join and leave between rounds (open), or are those of the first round.",
        one_of(["closed", "open"]),
    )
    quorum: int = setting(
        0,
        "Number of nodes with which a run with open membership starts; 0 waits for all "
        "num-partitions.",
        at_least(0, "0 waits for all num-partitions"),
    )
    leave_after: int = setting(
        3,
        "Number of successive rounds that a node misses before it has left, with open membership.",
        at_least(1, "1 lets a node leave that misses a round"),
    )

    @property
    def is_open(self) -> bool:
        """Whether nodes join and leave between rounds."""
        return self.membership == "open"
