"""Mail: what the relay hands to a node, and its record in a message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from flwr_decaf.messages.records import MAIL, POSTS


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
    trained, exchanged : str
        Factors ("AB", "A", "B") that the next training moves, and that nodes post.
    arrays_key : str
        Name of the record in which the user's functions expect and return the arrays.
    repeated : bool
        Whether the node has mixed this mail before, and told of it, but lost the result.
    mixed : str
        Factors of the posts that are mixed.
    robust : str
        Key of ``registries.ROBUST``.
    byzantine : int
        Number of neighbours that may be Byzantine; by default 1.
    local_head : bool
        Whether tensors outside LoRA pairs are left out of the mix.
    measured : bool
        Whether the node is to measure what mixing loses, which takes longer than mixing.
    base : str
        Version of the node's own state that the posts are to be mixed into; a node that holds
        another one must not use it. Arrays beside the mail take the place of any version.
    version : str
        Version of the state that the node holds once it has answered.
    """

    rule: str
    trained: str
    exchanged: str
    arrays_key: str = "arrays"
    weights: tuple[float, ...] = (1.0,)
    posts: Mapping[int, Array] = field(default_factory=dict)
    repeated: bool = False
    mixed: str = "AB"
    robust: str = "none"
    byzantine: int = 1
    local_head: bool = False
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
            "trained": mail.trained,
            "exchanged": mail.exchanged,
            "mixed": mail.mixed,
            "robust": mail.robust,
            "byzantine": mail.byzantine,
            "local-head": mail.local_head,
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
        trained=str(head["trained"]),
        exchanged=str(head["exchanged"]),
        mixed=str(head["mixed"]),
        robust=str(head["robust"]),
        byzantine=cast(int, head["byzantine"]),
        local_head=bool(head["local-head"]),
        arrays_key=str(head["arrays-key"]),
        repeated=bool(head["repeated"]),
        measured=bool(head["measured"]),
        base=str(head["base"]),
        version=str(head["version"]),
    )
