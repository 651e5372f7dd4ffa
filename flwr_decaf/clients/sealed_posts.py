"""Encrypted posts at a node: what arrives is opened before all else, what leaves is sealed last.

A node mixes the posts of an exchange with its own post of the same exchange, once. Posts of any
other exchange, sender or run are refused, so the relay cannot replay or swap them. A post that is
refused is a missing neighbour. The relay can only set a node back to an earlier post of its own, as
it does if the node has lost its state, and let it mix the posts of that exchange again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import NamedTuple, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict

from flwr_decaf.clients.own_keys import (
    POSTS_KEY,
    Identity,
    discloses_model,
    has_own_keys,
    identity_of,
)
from flwr_decaf.clients.trust import accepted_keys, known_signers
from flwr_decaf.messages import records
from flwr_decaf.messages.encryption import KIND_COPY, KIND_POST, Header, open_sealed, seal
from flwr_decaf.messages.packing import (
    PACKED,
    SEALED,
    STORED,
    packed,
    packed_array,
    record_of,
    refused,
)
from flwr_decaf.messages.sealing import Sealing, read_sealing

_log = logging.getLogger("flwr")
# What a node that lost its state gets back.
_OWN = {records.COPY: KIND_COPY, records.POST: KIND_POST}


class Turns(NamedTuple):
    """The exchanges that a node's state has been through.

    Attributes
    ----------
    posted : int
        Exchange of the node's last post; 0 before the first.
    mixed : int
        Exchange of the posts that it has mixed last.
    """

    posted: int = 0
    mixed: int = 0


class Seal:
    """Opens the posts in a message to a node, and seals those in its reply.

    Parameters
    ----------
    identity : Identity
        The node's keys.
    sealing : Sealing
        What the message says of its run and of the next post.
    context : Context
        ``context.state`` keeps the exchanges of the node's state.
    """

    def __init__(self, identity: Identity, sealing: Sealing, context: Context) -> None:
        self._identity, self._sealing, self._context = identity, sealing, context
        self._turns = Turns()
        self._has_mail = False
        self._keys: dict[int, bytes] = {}  # of the readers

    def open(self, content: RecordDict, arrays_key: str) -> None:
        """Open the node's own post, if it is sent back, and the posts of its neighbours.

        Raises
        ------
        ValueError
            If the node's own post cannot be opened.
        """
        for position, cause in self._accept_readers().items():
            _log.warning("The post is not sealed for node %d: %s", position, cause)
        self._turns = self._opened_own(content, starts=arrays_key in content)
        self._has_mail = records.POSTS in content
        if self._has_mail:
            posts = cast(ArrayRecord, content[records.POSTS])
            opened = {place: self._opened(int(place), post) for place, post in posts.items()}
            content[records.POSTS] = ArrayRecord(opened)

    def refusals(self) -> dict[int, str]:
        """Return the neighbours whose keys the node does not accept, and causes."""
        return self._accept_readers()

    def close(self, content: RecordDict, collected: bool) -> None:
        """Seal all arrays of a reply, and keep the exchanges of the node's new state.

        Raises
        ------
        ValueError
            If the reply contains arrays other than posts.
        """
        if records.CALL in content:  # the node has lost its state
            return
        turns = self._turns._replace(mixed=self._turns.posted) if self._has_mail else self._turns
        if collected:
            self._keep_unless_disclosed(content)
        elif records.POST in content:
            turns = turns._replace(posted=self._sealing.turn)
            self._seal(content, records.POST, self._keys)
            if records.COPY in content:
                self._seal(content, records.COPY, {})
        if not collected:
            _check_sealed(content)
        kept = {"experiment": self._sealing.experiment, **turns._asdict()}
        self._context.state[records.TURNS] = ConfigRecord(kept)

    def _keep_unless_disclosed(self, content: RecordDict) -> None:
        """Keep the final model at the node, unless both the run and the node disclose it."""
        if not (self._sealing.discloses and discloses_model(self._context.node_config)):
            content.pop(records.POST, None)

    def _accept_readers(self) -> dict[int, str]:
        """Keep the X25519 keys of the readers; return those whose keys are refused, and causes."""
        causes = {}
        for position, announcement in self._sealing.readers.items():
            try:
                keys = accepted_keys(self._identity, self._context, position, announcement)
            except ValueError as error:
                causes[position] = str(error)
            else:
                self._keys[position] = keys.encryption
        return causes

    def _opened_own(self, content: RecordDict, starts: bool) -> Turns:
        name = next((name for name in _OWN if name in content), None)
        if name is None:
            return Turns() if starts else self._kept()
        array = packed_array(cast(ArrayRecord, content[name]))
        own = [self._identity.signer.public_key().public_bytes_raw()]
        try:
            turn, opened = self._verified(array, self._identity.position, own, _OWN[name])
        except ValueError as error:
            raise ValueError(
                f"the node's own last post cannot be opened: {error}; start the node with the "
                f"{POSTS_KEY} with which it was sealed"
            ) from error
        content[name] = record_of(opened)
        # It may be an earlier post than the last: the relay has not received the later ones.
        return Turns(posted=turn, mixed=turn - 1)

    def _kept(self) -> Turns:
        kept = cast(ConfigRecord, self._context.state.get(records.TURNS, ConfigRecord()))
        if kept.get("experiment") != self._sealing.experiment:  # the node has no state of this run
            return Turns()
        return Turns(cast(int, kept["posted"]), cast(int, kept["mixed"]))

    def _opened(self, sender: int, post: Array) -> Array:
        if post.stype == STORED:  # it could not be read, which has been logged
            return post
        try:
            signers = known_signers(self._identity, self._context, sender)
            turn, opened = self._verified(post, sender, signers, KIND_POST)
            self._check_turn(turn)
        except ValueError as error:
            _log.warning("The post of node %d is refused: %s", sender, error)
            return refused(str(error))
        return opened

    def _verified(
        self, array: Array, sender: int, signers: Collection[bytes], kind: str
    ) -> tuple[int, Array]:
        """Return the exchange of a sealed post, and the post."""
        if not signers:
            raise ValueError("this node knows no key of its sender")
        data, position = array.data, self._identity.position
        header, post = open_sealed(data, position, self._identity.key, signers)
        if header.experiment != self._sealing.experiment:
            raise ValueError("it is of another run")
        if (header.kind, header.sender) != (kind, sender):
            raise ValueError(f"it is the {header.kind} of node {header.sender}")
        return header.turn, packed(post)

    def _check_turn(self, turn: int) -> None:
        if turn != self._turns.posted or turn <= self._turns.mixed:
            raise ValueError(
                f"it is of exchange {turn}, and this node has posted in exchange "
                f"{self._turns.posted} and mixed exchange {self._turns.mixed}"
            )

    def _seal(self, content: RecordDict, name: str, keys: Mapping[int, bytes]) -> None:
        """Seal a record for other nodes, by their keys, and for this node."""
        own = self._identity
        post = packed_array(cast(ArrayRecord, content[name]))
        if post.stype != PACKED:
            raise ValueError(f"{name} must be in the message before it is sealed; got {post.stype}")
        readers = {**keys, own.position: own.key.public_key().public_bytes_raw()}
        kind, experiment, turn = _OWN[name], self._sealing.experiment, self._sealing.turn
        header = Header(kind, experiment, own.position, turn, tuple(sorted(readers)))
        content[name] = record_of(packed(seal(post.data, header, readers, own.signer)))


def seal_of(context: Context, msg: Message) -> Seal | None:
    """Return what opens and seals the posts of a message; None if they are not encrypted.

    Raises
    ------
    ValueError
        If the run encrypts posts and the node has no keys; or if the node's own node-config
        demands encryption, and the message would make it send its model without.
    """
    sealing, mailed = read_sealing(msg.content), records.MAIL in msg.content
    ask = cast(ConfigRecord, msg.content.get(records.CALL, ConfigRecord())).get("ask")
    trains = msg.metadata.message_type.startswith(MessageType.TRAIN)
    is_sealed = sealing is not None and (mailed or ask == records.CHECK_KEYS)
    if has_own_keys(context.node_config) and (mailed or trains) and not is_sealed:
        raise ValueError(
            f"posts.encryption must be x25519 for nodes with {POSTS_KEY} in their node-config; the "
            "run does not encrypt posts; set it, or start the node without the key"
        )
    if sealing is None:
        return None
    identity = identity_of(context.node_config)
    if identity is None:
        raise ValueError(
            f"{POSTS_KEY} must be in the node-config, since the run has posts.encryption; it is "
            "not there; add it to --node-config"
        )
    return Seal(identity, sealing, context)


def _check_sealed(content: RecordDict) -> None:
    for name, record in content.array_records.items():
        if any(array.stype != SEALED for array in record.values()):
            raise ValueError(
                "an evaluate function must return no arrays with posts.encryption, since they "
                f"would not be encrypted; got {name!r}; return only metrics"
            )
