"""The keyring: the public keys that nodes have announced, for the neighbours of each exchange.

The relay cannot open posts. It checks only that a post is sealed, by the node that sends it and for
the current exchange.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from flwr.app import Array, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from flwr_decaf.messages import records
from flwr_decaf.messages.encryption import KIND_COPY, KIND_POST, header_of
from flwr_decaf.messages.packing import SEALED
from flwr_decaf.messages.sealing import Sealing, put_sealing
from flwr_decaf.strategies.relay.replies import cause_of
from flwr_decaf.topology.network import Network

_PATIENCE = 120.0  # seconds for nodes to check the keys of their neighbours


class Keyring:
    """Keys of all nodes of a run that encrypts posts.

    Parameters
    ----------
    experiment : str
        Id of the run.
    announcements : sequence of bytes
        What each node has announced, by position.
    network : Network
        Mixing matrix of every exchange.
    discloses : bool
        Whether nodes send their final models without encryption; by default False.
    """

    def __init__(
        self,
        experiment: str,
        announcements: Sequence[bytes],
        network: Network,
        discloses: bool = False,
    ) -> None:
        self.experiment, self.discloses = experiment, discloses
        self._announcements, self._network = announcements, network

    def lay_into(self, content: RecordDict, node: int, turn: int) -> None:
        """Add to a message for whom the node seals its next post, in the exchange ``turn``."""
        put_sealing(content, self._for(self._network.rows(turn).neighbours(node), turn))

    def unusable(
        self, posts: Mapping[int, Array], copies: Mapping[int, Array], turn: int
    ) -> dict[int, str]:
        """Find posts and copies that their sender has not sealed for this exchange.

        Returns
        -------
        dict of int to str
            Sender -> what is wrong with its post or its copy.
        """
        causes = {}
        for kind, arrays in ((KIND_POST, posts), (KIND_COPY, copies)):
            for sender, array in arrays.items():
                try:
                    header = header_of(array.data)
                    if array.stype != SEALED or header[:4] != (kind, self.experiment, sender, turn):
                        raise ValueError("its header is not that of this node and this exchange")
                except ValueError as error:
                    causes[sender] = f"a {kind} must be encrypted by its node: {error}"
        return causes

    def check(self, grid: Grid, ids: Sequence[int]) -> None:
        """Let each node check the keys of its neighbours, before anything is trained.

        These are its neighbours in any exchange of a period; if there is no period, all nodes.

        Raises
        ------
        RuntimeError
            If a node does not accept the key of a neighbour.
        """
        messages = []
        neighbours = self._ever_neighbours(len(ids))
        for node, node_id in enumerate(ids):
            content = RecordDict({records.CALL: ConfigRecord({"ask": records.CHECK_KEYS})})
            put_sealing(content, self._for(sorted(neighbours[node]), turn=0))
            messages.append(Message(content, message_type=MessageType.TRAIN, dst_node_id=node_id))
        for reply in grid.send_and_receive(messages, timeout=_PATIENCE):
            if reply.has_error():
                raise RuntimeError(f"a node cannot check keys: {cause_of(reply)}; fix its cause")
            node = ids.index(reply.metadata.src_node_id)
            _check_accepted(node, cast(ConfigRecord, reply.content[records.CALL]))

    def _ever_neighbours(self, n: int) -> list[set[int]]:
        """Return the neighbours of each node in any exchange."""
        if self._network.period is None:
            return [{*range(n)} - {node} for node in range(n)]
        ever: list[set[int]] = [set() for _ in range(n)]
        for turn in range(1, self._network.period + 1):
            rows = self._network.rows(turn)
            for node in range(n):
                ever[node] |= {*rows.neighbours(node)}
        return ever

    def _for(self, readers: Sequence[int], turn: int) -> Sealing:
        return Sealing(
            self.experiment, turn, {j: self._announcements[j] for j in readers}, self.discloses
        )


def _check_accepted(node: int, answer: ConfigRecord) -> None:
    senders, causes = cast(list[int], answer["senders"]), cast(list[str], answer["causes"])
    if senders:
        others = "; ".join(f"node {j}: {why}" for j, why in zip(senders, causes, strict=True))
        raise RuntimeError(
            f"node {node} does not accept the keys of its neighbours ({others}); give all nodes "
            "the same allowed signers, with the public key of each node's posts-key"
        )
