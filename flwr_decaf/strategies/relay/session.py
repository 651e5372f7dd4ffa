"""A session: everything that a strategy knows and does once its nodes have registered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import networkx as nx
from flwr.app import Array, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from flwr_decaf.lora import State, select
from flwr_decaf.messages import records
from flwr_decaf.messages.inspection import read_posts
from flwr_decaf.messages.packing import pack, unpack
from flwr_decaf.strategies.relay.attacks import sign_flipped
from flwr_decaf.strategies.relay.attendance import Attendance
from flwr_decaf.strategies.relay.mailbox import Mailbox
from flwr_decaf.strategies.relay.replies import post_of
from flwr_decaf.strategies.relay.roster import Roster
from flwr_decaf.strategies.relay.schedules import Schedule
from flwr_decaf.topology.graphs import Matrix
from flwr_decaf.topology.mixing_matrix import graph_of, without_nodes

TIMEOUT = 3600.0  # seconds; Flower's own default


@dataclass
class Session:
    """One run of a strategy: calls nodes by position, and reads their replies.

    Attributes
    ----------
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
    mailbox: Mailbox
    attendance: Attendance
    schedule: Schedule
    initial: State
    byzantine: frozenset[int]
    evaluates: bool
    configrecord_key: str
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

    @property
    def honest(self) -> list[int]:
        """Positions of the nodes that are not Byzantine."""
        return [node for node in self.roster.positions if node not in self.byzantine]

    def readmit(self, grid: Grid) -> None:
        """Accept nodes that have registered anew; they receive their last post again."""
        for node in self.roster.readmit(grid):
            self.mailbox.lost(node)

    def ask(
        self,
        grid: Grid,
        nodes: Iterable[int],
        kind: str,
        config: ConfigRecord,
        call: ConfigRecord | None = None,
    ) -> list[Message]:
        """Write messages of the current round, with their mail, to nodes.

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
        phase = self.schedule(self.server_round)

        def write(node: int) -> Message:
            settings = ConfigRecord({**config, "server-round": self.server_round})
            settings["trainable-factors"] = phase.trained
            content = RecordDict({self.configrecord_key: settings})
            if call is not None:
                content[records.CALL] = call
            self.mailbox.lay_into(content, node, phase.trained, phase.exchanged)
            return Message(content=content, message_type=kind, dst_node_id=self.roster.ids[node])

        self.attendance.timeout = self.timeout
        return self.attendance.ask(grid, nodes, write)

    def gather(self, replies: Iterable[Message]) -> dict[int, RecordDict]:
        """Return the contents of successful replies, by position; see ``Attendance.gather``."""
        return self.attendance.gather(self.server_round, replies, self.roster.ids, self.mailbox)

    def exchange(
        self, replies: Iterable[Message], w: Matrix
    ) -> tuple[dict[int, RecordDict], dict[int, State], nx.Graph]:
        """Address the posts in the replies to the neighbours under W.

        A node without a usable post counts as missing: its links are dropped, so that W stays
        doubly stochastic. The neighbours of a Byzantine node receive the opposite of its post.

        Returns
        -------
        contents : dict of int to RecordDict
            Replies without their posts, of the nodes whose posts are usable.
        states : dict of int to State
            These posts, unpacked.
        graph : networkx.Graph
            The links along which they are sent.
        """
        contents = self.gather(replies)
        posts, states = self._usable(contents)
        w = without_nodes(w, set(self.roster.positions) - posts.keys())
        forged = {i: pack(sign_flipped(states[i])) for i in self.byzantine & posts.keys()}
        self.mailbox.collect(posts, w, self.schedule(self.server_round).mixed, forged)
        return {node: contents[node] for node in states}, states, graph_of(w)

    def collect(self, grid: Grid) -> dict[int, State]:
        """Fetch the state of every node after its last mix; see ``DecentralizedStrategy``."""
        call = ConfigRecord({"ask": records.COLLECT})
        # The alignment of a client may need the settings, even if nothing is trained.
        settings, nodes = self.train_config, self.roster.positions
        asked = self.ask(grid, nodes, MessageType.TRAIN, settings, call)
        contents = self.gather(grid.send_and_receive(asked, timeout=self.timeout))
        return {node: unpack(post_of(content)) for node, content in contents.items()}

    def _usable(
        self, contents: Mapping[int, RecordDict]
    ) -> tuple[dict[int, Array], dict[int, State]]:
        """Take the posts out of the replies, and read them; a node with a bad post is missing."""
        posts = {node: post_of(content) for node, content in contents.items()}
        exchanged = select(self.initial, self.schedule(self.server_round).exchanged)
        states, causes = read_posts(posts, like=exchanged)
        for node in causes:
            self.mailbox.lost(node)
        self.attendance.note_missing(self.server_round, causes, asked=len(posts), n=self.n)
        return {node: posts[node] for node in states}, states
