"""Mail: what the relay sends to a node, and its records in a message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from flwr_decaf.messages.records import MAIL, POSTS, SEALING

PREVIOUS = -1  # stands for the sender of the node's own previous post


@dataclass(frozen=True)
class Mail:
    """Posts of a node's neighbours, its row of W, and what to train and to post next.

    Attributes
    ----------
    rule : str
        Key of ``registries.RULES``.
    trained, exchanged : str
        Factors ("AB", "A" or "B") that are trained next, and that nodes post.
    arrays_key : str
        Name of the record in which the user's functions expect and return the arrays; by default
        "arrays".
    weights : tuple of float
        The node's row of W: its own weight, then one for each post in the order of ``posts``. By
        default (1.0,).
    posts : mapping of int to Array
        Packed states of the neighbours, by position in the graph; by default empty.
    late : tuple of int
        In asynchronous rounds, neighbours whose posts were exchanged for the node's previous post.
        That is then among the posts, as ``PREVIOUS``, and its weight is minus the sum of theirs. By
        default none.
    repeated : bool
        Whether the node has already mixed and reported this mail, but lost the result; by default
        False.
    mixed : str
        Factors of the posts that are mixed; by default "AB".
    robust : str
        Key of ``registries.ROBUST``; by default "none".
    byzantine : int
        Number of neighbours that may be Byzantine; by default 1.
    local_head : bool
        Whether tensors outside LoRA pairs are excluded from mixing; by default False.
    measured : bool
        Whether the node measures the interference of mixing, which takes longer than mixing
        itself; by default True.
    dtype : str
        How posts are quantized, one of ``registries.POST_DTYPES``; by default "fp32": not at all.
    energy : float
        Share of the energy of each product that the node posts, see ``rules.energy``; by default
        1.0: all components.
    rounding : int
        Seed for rounding the post that the node sends next; by default 0.
    rounded : int
        Seed with which the node's last post was rounded, so that the node can mix the others with
        it; by default -1: the node posted its own state unrounded.
    copied : bool
        Whether the node also sends its exact state along with a post that does not contain it, for
        the relay to keep; by default False.
    recipients : tuple of int
        Neighbours to which the node forwards what it has received, each in a separate message; by
        default none: all neighbours receive its post.
    nodes : int
        Number of nodes of the run, if models are forwarded; by default 0.
    base : str
        Version of the node's own state with which the posts are to be mixed; by default "". A node
        that has another version must not use it. Arrays sent with the mail replace any version.
    version : str
        Version of the node's state after it has replied; by default "".
    box : str
        Name under which the posts of the run are stored; by default "": they are in the messages.
    store_timeout : float
        Seconds to wait for the store in each message; by default 300.
    sealed : bool
        Whether posts are encrypted, so that none is written to a shared folder, and nodes measure
        distances that the relay cannot; by default False.
    """

    rule: str
    trained: str
    exchanged: str
    arrays_key: str = "arrays"
    weights: tuple[float, ...] = (1.0,)
    posts: Mapping[int, Array] = field(default_factory=dict)
    late: tuple[int, ...] = ()
    repeated: bool = False
    mixed: str = "AB"
    robust: str = "none"
    byzantine: int = 1
    local_head: bool = False
    measured: bool = True
    dtype: str = "fp32"
    energy: float = 1.0
    rounding: int = 0
    rounded: int = -1
    copied: bool = False
    recipients: tuple[int, ...] = ()
    nodes: int = 0
    base: str = ""
    version: str = ""
    box: str = ""
    store_timeout: float = 300.0
    sealed: bool = False


_LISTS = ("weights", "late", "recipients")  # tuples, which Flower's records do not support
# The posts, which are arrays, are in a separate record, and so is what concerns their encryption.
_KEYS = {
    one.name: one.name.replace("_", "-")
    for one in fields(Mail)
    if one.name not in ("posts", "sealed")
}


def put_mail(content: RecordDict, mail: Mail) -> None:
    """Add mail to the content of a message."""
    head: dict[str, Any] = {key: getattr(mail, name) for name, key in _KEYS.items()}
    head |= {name: list(getattr(mail, name)) for name in _LISTS}
    head["senders"] = list(mail.posts)
    content[MAIL] = ConfigRecord(head)
    if mail.posts:
        content[POSTS] = ArrayRecord({str(node): post for node, post in mail.posts.items()})


def take_mail(content: RecordDict) -> Mail | None:
    """Remove the mail from a message, so that only what the user's code expects remains.

    Returns
    -------
    Mail or None
        None if the message contains no mail.
    """
    mail = read_mail(content)
    discard_mail(content)
    return mail


def discard_mail(content: RecordDict) -> None:
    """Remove the mail from a message, if it contains any."""
    content.pop(MAIL, None)
    content.pop(POSTS, None)
    content.pop(SEALING, None)


def read_mail(content: RecordDict) -> Mail | None:
    """Read the mail in a message, or the mail that a node has kept in its ``Context.state``."""
    if MAIL not in content:
        return None
    head = cast(ConfigRecord, content[MAIL])
    arrays = cast(ArrayRecord, content[POSTS]) if POSTS in content else ArrayRecord()
    given: dict[str, Any] = {name: head[key] for name, key in _KEYS.items()}
    given |= {name: tuple(given[name]) for name in _LISTS}
    posts = {node: arrays[str(node)] for node in cast(list[int], head["senders"])}
    return Mail(**given, posts=posts, sealed=SEALING in content)
