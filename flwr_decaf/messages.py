"""The records that the relay and the nodes exchange, and how states are packed into them.

A post is a node's trained state, packed into one Flower ``Array`` in the safetensors format: no
pickle, bfloat16 included, and one array instead of hundreds, since Flower's cost is per array.

====================  ==================================================================
record                 meaning
====================  ==================================================================
``decaf.mail``         to a node: how to mix, and which factors train and travel
``decaf.posts``        to a node: its neighbours' posts, by position
``decaf.post``         from a node: its own post
``decaf.call``         to a node: roll call or collection, answered without the user's code
``decaf.refused``      from a node: whose posts it could not use, and why
``decaf.own``          in ``Context.state``: the node's own state
``decaf.version``      in ``Context.state``: which of its states that is
====================  ==================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import safetensors.torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from flwr_decaf.lora import State
from flwr_decaf.shared_posts import TICKET, data_of, share

MAIL = "decaf.mail"
POSTS = "decaf.posts"
POST = "decaf.post"
CALL = "decaf.call"
REFUSED = "decaf.refused"
OWN = "decaf.own"
VERSION = "decaf.version"

ROLL_CALL = "roll-call"
COLLECT = "collect"

_FORMAT = "safetensors"
_ORDER = "order"


@dataclass(frozen=True)
class Mail:
    """What the relay hands to a node: neighbours' posts, its row of W, and the phase to come.

    Attributes
    ----------
    rule : str
        Key of ``registries.RULES``.
    weights : tuple of float
        The node's row of W: its own first, then one for each post, in the posts' order.
    posts : mapping of int to Array
        Packed states of the neighbours, by their position in the graph.
    trains, travels : str
        Factors ("AB", "A", "B") that the next training moves, and that nodes post.
    arrays_key : str
        Name of the record in which the user's functions expect and return the arrays.
    repeated : bool
        Whether the node has mixed this mail before, and told of it, but lost the result.
    mixes : str
        Factors of the posts that are mixed.
    robust : str
        Key of ``registries.ROBUST``.
    liars : int
        Neighbours that may lie.
    measured : bool
        Whether the node is to measure what mixing loses, which takes longer than mixing.
    base : str
        Version of the node's own state that the posts are to be mixed into; a node that holds
        another one must not use it. Arrays beside the mail take the place of any version.
    version : str
        Version of the state that the node holds once it has answered.
    """

    rule: str
    trains: str
    travels: str
    arrays_key: str = "arrays"
    weights: tuple[float, ...] = (1.0,)
    posts: Mapping[int, Array] = field(default_factory=dict)
    repeated: bool = False
    mixes: str = "AB"
    robust: str = "none"
    liars: int = 1
    measured: bool = True
    base: str = ""
    version: str = ""


def put_mail(content: RecordDict, mail: Mail) -> None:
    """Lay mail into the content of a message."""
    content[MAIL] = ConfigRecord(
        {
            "rule": mail.rule,
            "weights": list(mail.weights),
            "senders": list(mail.posts),
            "trains": mail.trains,
            "travels": mail.travels,
            "mixes": mail.mixes,
            "robust": mail.robust,
            "liars": mail.liars,
            "arrays-key": mail.arrays_key,
            "repeated": mail.repeated,
            "measured": mail.measured,
            "base": mail.base,
            "version": mail.version,
        }
    )
    if mail.posts:
        content[POSTS] = ArrayRecord({str(node): post for node, post in mail.posts.items()})


def take_mail(content: RecordDict) -> Mail | None:
    """Take the mail out of a message, so that what is left is what the user's code expects."""
    if MAIL not in content:
        return None
    head = cast(ConfigRecord, content.pop(MAIL))
    arrays = cast(ArrayRecord, content.pop(POSTS)) if POSTS in content else ArrayRecord()
    return Mail(
        rule=str(head["rule"]),
        weights=tuple(cast(list[float], head["weights"])),
        posts={node: arrays[str(node)] for node in cast(list[int], head["senders"])},
        trains=str(head["trains"]),
        travels=str(head["travels"]),
        mixes=str(head["mixes"]),
        robust=str(head["robust"]),
        liars=cast(int, head["liars"]),
        arrays_key=str(head["arrays-key"]),
        repeated=bool(head["repeated"]),
        measured=bool(head["measured"]),
        base=str(head["base"]),
        version=str(head["version"]),
    )


def pack(state: State) -> Array:
    """Serialise a state into one array.

    The order of the names is kept beside the tensors (safetensors sorts them), because some
    projects rely on it: ``ArrayRecord.to_numpy_ndarrays`` returns a plain list.
    """
    return packed(safetensors.torch.save(_laid_out(state), metadata=_order_of(state)))


def pack_shared(state: State) -> Array:
    """Serialise a state into a file, where processes share posts, and else into one array."""

    def write(file: Path) -> None:
        safetensors.torch.save_file(_laid_out(state), file, metadata=_order_of(state))

    ticket = share(write)
    return pack(state) if ticket is None else ticket


def _laid_out(state: State) -> State:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _order_of(state: State) -> dict[str, str]:
    return {_ORDER: json.dumps(list(state))}


def packed(data: bytes) -> Array:
    """Make an array of bytes that ``pack`` produced."""
    return Array(dtype="uint8", shape=(len(data),), stype=_FORMAT, data=data)


def unpack(array: Array) -> State:
    """Read a packed state, shared or not.

    Raises
    ------
    ValueError
        If the array does not hold a well-formed state.
    """
    if array.stype not in (_FORMAT, TICKET):
        raise ValueError(f"a packed state must be of stype {_FORMAT!r}; got {array.stype!r}")
    try:
        # Not safetensors' own mapping of files: in torch's flavour it leaks 64 bytes a tensor.
        return _load(data_of(array))
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"a packed state cannot be read: {error}") from error


def _load(data: bytes) -> State:
    tensors = safetensors.torch.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {name: tensors[name] for name in json.loads(header["__metadata__"][_ORDER])}


def pack_record(state: State) -> ArrayRecord:
    """Pack a state into a record of its own."""
    return record_of(pack(state))


def record_of(post: Array) -> ArrayRecord:
    """Make a record of a packed state."""
    return ArrayRecord({_FORMAT: post})


def unpack_record(record: ArrayRecord) -> State:
    """Read the state of a record made by ``pack_record``."""
    return unpack(record[_FORMAT])


def packed_array(record: ArrayRecord) -> Array:
    """Hand out a packed record's one array as it is: the relay passes it on unread."""
    return record[_FORMAT]
