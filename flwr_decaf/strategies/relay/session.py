"""A session: everything that a strategy knows and does once its nodes have registered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from flwr_decaf.config import Posts
from flwr_decaf.lora import State, select
from flwr_decaf.messages import records
from flwr_decaf.messages.checkpoint import Checkpoint
from flwr_decaf.messages.metrics import bad_counts, counts_of
from flwr_decaf.messages.packing import unpack
from flwr_decaf.seeds import derive_seed
from flwr_decaf.strategies.relay.arrivals import Arrivals, take_posts
from flwr_decaf.strategies.relay.attacks import forged_post
from flwr_decaf.strategies.relay.attendance import Attendance
from flwr_decaf.strategies.relay.keyring import Keyring
from flwr_decaf.strategies.relay.mailbox import Mailbox
from flwr_decaf.strategies.relay.post_office import InMessages, PostOffice
from flwr_decaf.strategies.relay.replies import bytes_sent, messages_of, post_of
from flwr_decaf.strategies.relay.resumable import Start
from flwr_decaf.strategies.relay.roster import Roster
from flwr_decaf.strategies.relay.schedules import Schedule
from flwr_decaf.topology.rows import Rows
from flwr_decaf.topology.weighted_mixing import Masses, Weigh, weighted_rows


@dataclass
class Session:
    """One run of a strategy: calls nodes by position, and reads their replies.

    Attributes
    ----------
    start : Start
        The nodes' connection, the last round and the timeout.
    roster : Roster
        Node ids by position.
    mailbox : Mailbox
        Posts, and mail that is to be sent.
    attendance : Attendance
        Calls of nodes, and their failures.
    schedule : callable
        Function of the round that returns its ``Phase``.
    initial : State
        Initial arrays.
    byzantine : frozenset of int
        Positions of the Byzantine nodes.
    evaluates : bool
        Whether nodes are ever evaluated.
    configrecord_key : str
        Name of the record with the settings of a message.
    posts : Posts
        How posts are compressed.
    seed : int
        Seed for rounding them.
    server_round : int
        The current round.
    train_config : ConfigRecord
        Settings of its train messages.
    steps : int
        Number of exchanges in a round; by default 1.
    weighted_by : str
        Metric that weights the nodes in mixes; by default empty: equal weights.
    weigh : callable
        How the rows of W weight the nodes, one of ``topology.weighted_mixing``.
    masses : ndarray
        Weights of the nodes in the current exchange.
    step : int
        The current exchange of the round, from 1.
    started : bool
        Whether the first round has been configured; by default False.
    office : PostOffice
        How posts travel; by default in the messages.
    keyring : Keyring, optional
        Keys of the nodes if they encrypt their posts; by default None.
    """

    start: Start
    roster: Roster
    mailbox: Mailbox
    attendance: Attendance
    schedule: Schedule
    initial: State
    byzantine: frozenset[int]
    evaluates: bool
    configrecord_key: str
    posts: Posts
    seed: int
    server_round: int
    train_config: ConfigRecord
    steps: int = 1
    weighted_by: str = ""
    weigh: Weigh = weighted_rows
    masses: Masses = field(default_factory=lambda: np.zeros(0))
    step: int = 1
    started: bool = False
    office: PostOffice = field(default_factory=InMessages)
    keyring: Keyring | None = None

    @property
    def n(self) -> int:
        """Number of positions in the graph."""
        return self.roster.size

    @property
    def num_rounds(self) -> int:
        """The last round; 0 if it is unknown."""
        return self.start.num_rounds

    @property
    def turn(self) -> int:
        """Number of the current exchange in the whole run, from 1."""
        return (self.server_round - 1) * self.steps + self.step

    @property
    def honest(self) -> list[int]:
        """Positions of the nodes that are not Byzantine."""
        return [node for node in self.roster.positions if node not in self.byzantine]

    def checkpoint(self, server_round: int) -> Checkpoint:
        """Return everything that determines the run after a complete round."""
        return replace(self.mailbox.checkpoint(server_round), members=dict(self.roster.missed))

    def ask(
        self,
        grid: Grid,
        nodes: Iterable[int],
        kind: str,
        config: ConfigRecord,
        call: ConfigRecord | None = None,
    ) -> list[Message]:
        """Write messages of the current round to nodes, including their mail.

        Parameters
        ----------
        grid : Grid
            Flower's connection to the nodes.
        nodes : iterable of int
            Positions.
        kind : str
            Flower's message type.
        config : ConfigRecord
            Settings for the user's functions.
        call : ConfigRecord, optional
            Request that the mod answers without the user's code; by default none.
        """
        return self.attendance.ask(grid, nodes, lambda node: self.write(node, kind, config, call))

    def write(
        self, node: int, kind: str, config: ConfigRecord, call: ConfigRecord | None = None
    ) -> Message:
        """Write the message of the current round to one node; see ``ask``."""
        phase = self.schedule(self.server_round)
        settings = ConfigRecord({**config, "server-round": self.server_round})
        settings["trainable-factors"] = phase.trained
        content = RecordDict({self.configrecord_key: settings})
        if call is not None:
            content[records.CALL] = call
        rounding = derive_seed(self.seed, "rounding", self.turn, node)
        self.mailbox.lay_into(content, node, phase.trained, phase.exchanged, rounding)
        if self.keyring:
            self.keyring.lay_into(content, node, self.turn)
        self.office.deposit(content)
        return Message(content=content, message_type=kind, dst_node_id=self.roster.ids[node])

    def gather(self, replies: Iterable[Message]) -> dict[int, RecordDict]:
        """Return the contents of successful replies, by position; see ``Attendance.gather``."""
        ids, mailbox = self.roster.ids, self.mailbox
        contents = self.attendance.gather(self.server_round, replies, ids, mailbox)
        self.office.redeem(contents)
        return contents

    def exchange(
        self, replies: Iterable[Message], rows: Rows
    ) -> tuple[dict[int, RecordDict], dict[int, State], dict[int, int]]:
        """Address the posts in the replies to the neighbours under W.

        A node without a usable post counts as missing: its links are dropped, so that W stays
        doubly stochastic; with ``weighted_by``, nodes are then weighted by it. The neighbours of a
        Byzantine node receive the negative of its post.

        Returns
        -------
        contents : dict of int to RecordDict
            Replies without their posts, of the nodes whose posts are usable.
        states : dict of int to State
            These posts, dequantized; empty if they are encrypted.
        size : dict of int to int
            Bytes that each of these nodes sends: its post, once to each neighbour.
        """
        contents = self.gather(replies)
        (posts, copies, states, _), causes = self.usable(contents)
        self.attendance.note_missing(self.server_round, causes, n=len(self.roster.ids))
        rows = rows.without(set(self.roster.positions) - posts.keys())
        sent = {i: messages_of(contents[i]) for i in posts}
        for i in self.byzantine & posts.keys():
            seed = derive_seed(self.seed, "forging", self.turn, i)
            forged = forged_post(states[i], self.posts.dtype, seed)
            sent[i] = dict.fromkeys(self.roster.positions, forged)
        rows = self._weighted(rows, {node: contents[node] for node in posts})
        self.mailbox.collect(posts, rows, self.schedule(self.server_round).mixed, sent, copies)
        self.office.sweep(self.mailbox.held)
        size = bytes_sent(posts, states, self.posts.dtype, rows.readers)
        return {node: contents[node] for node in posts}, states, size

    def mix(self, nodes: Iterable[int]) -> Iterable[Message]:
        """Let nodes mix their mail and post the result, without the user's code."""
        return self._call(self.start.grid, nodes, records.MIX)

    def collect(self, grid: Grid) -> dict[int, State]:
        """Let every node mix its last mail, and fetch its state unless it stays there."""
        contents = self.gather(self._call(grid, self.roster.positions, records.COLLECT))
        if self.keyring and not self.keyring.discloses:
            return {}
        return {node: unpack(post_of(content)) for node, content in contents.items()}

    def _call(self, grid: Grid, nodes: Iterable[int], what: str) -> Iterable[Message]:
        call = ConfigRecord({"ask": what})
        # A client's alignment may need the settings even if nothing is trained.
        asked = self.ask(grid, nodes, MessageType.TRAIN, self.train_config, call)
        return grid.send_and_receive(asked, timeout=self.start.timeout)

    def _weighted(self, rows: Rows, contents: Mapping[int, RecordDict]) -> Rows:
        """Weight the nodes of W by their masses, which continue through a round's exchanges."""
        if not self.weighted_by:
            return rows
        if self.step == 1:
            self.masses = np.zeros(self.n)
            self.masses[list(contents)] = counts_of(contents.values(), self.weighted_by)
        rows, self.masses = self.weigh(rows, self.masses)
        return rows

    def usable(self, contents: Mapping[int, RecordDict]) -> tuple[Arrivals, dict[int, str]]:
        """Take the posts out of replies; return the usable ones, and what is wrong with others."""
        exchanged = self.schedule(self.server_round).exchanged
        likes = {node: select(self.mailbox.starts[node], exchanged) for node in contents}
        arrived = take_posts(contents, likes, self.posts, self.keyring, self.turn)
        causes = arrived.causes
        if self.weighted_by and self.step == 1:
            causes |= bad_counts(contents, self.weighted_by)
        for node in causes:
            self.mailbox.lost(node)
        return arrived.without(causes), causes
