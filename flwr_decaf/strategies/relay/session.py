"""A session: everything that a strategy knows once its nodes have registered."""

from __future__ import annotations

from dataclasses import dataclass, field

from flwr.app import ConfigRecord

from flwr_decaf.lora import State
from flwr_decaf.strategies.relay.mailbox import Mailbox
from flwr_decaf.strategies.relay.roster import Roster
from flwr_decaf.topology.network import Network

TIMEOUT = 3600.0  # seconds; Flower's own default


@dataclass
class Session:
    """State of one run of a strategy.

    Attributes
    ----------
    roster : Roster
        Node ids by position.
    network : Network
        Network on these nodes.
    mailbox : Mailbox
        Posts, and mail that is to be sent.
    initial : State
        Initial arrays.
    byzantine : frozenset of int
        Positions of the Byzantine nodes.
    evaluates : bool
        Whether nodes are ever evaluated.
    server_round : int
        The current round.
    num_rounds : int
        The last round; by default 0, not known.
    train_config : ConfigRecord
        Settings of the train messages; by default empty.
    timeout : float
        Seconds to wait for replies; by default 3600.
    averages_each_round : bool
        Whether the models are averaged in every round, or in the last alone; by default True.
    started : bool
        Whether the first round has been configured; by default False.
    """

    roster: Roster
    network: Network
    mailbox: Mailbox
    initial: State
    byzantine: frozenset[int]
    evaluates: bool
    server_round: int
    num_rounds: int = 0
    train_config: ConfigRecord = field(default_factory=ConfigRecord)
    timeout: float = TIMEOUT
    averages_each_round: bool = True
    started: bool = False

    @property
    def n(self) -> int:
        """Number of nodes."""
        return len(self.roster.ids)
