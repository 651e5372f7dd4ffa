"""Replies by position in the graph, and the causes of failures."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

from flwr.app import Array, ArrayRecord, Message, RecordDict

from flwr_decaf.lora import State, size_in_bytes
from flwr_decaf.messages import records
from flwr_decaf.messages.packing import packed_array
from flwr_decaf.messages.shared_posts import data_of
from flwr_decaf.topology.rows import Indices

_LENGTH = 400  # characters of a cause that are kept
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_WRAPPED = re.compile(r"<class '([^']*)'>:<'(.*)'>\s*", re.DOTALL)  # Flower's format of an error
_CHAINED = re.compile(
    r"\n+(?:The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):\n+"
)
_FRAME = re.compile(r"^ +File \".*\n(?: {3,}.*\n)*", re.MULTILINE)
_OF_FLOWER = "ClientAppException"  # it repeats the message of the exception before it


class Replies(NamedTuple):
    """Replies of the nodes that were called.

    Attributes
    ----------
    contents : dict of int to RecordDict
        Contents of successful replies, by position.
    errors : dict of int to str
        Exceptions of the nodes that replied with an error, one line each.
    lost : list of int
        Nodes among these that no longer have the model of their last reply.
    silent : dict of int to str
        Nodes that did not reply, with the cause if it is known.
    """

    contents: dict[int, RecordDict]
    errors: dict[int, str]
    lost: list[int]
    silent: dict[int, str]


def sort_replies(
    replies: Iterable[Message], nodes: Mapping[int, int], called: Iterable[int]
) -> Replies:
    """Sort replies by position.

    Parameters
    ----------
    replies : iterable of Message
        At most one reply per node.
    nodes : mapping of int to int
        The nodes' ids, by position.
    called : iterable of int
        Positions of the nodes that were called.
    """
    place = {node_id: node for node, node_id in nodes.items()}
    contents: dict[int, RecordDict] = {}
    errors: dict[int, str] = {}
    lost: list[int] = []
    silence = "no reply in time"
    for reply in replies:
        node = place.get(reply.metadata.src_node_id)
        if node is None:  # the SuperLink replies for a node that is gone, without naming it
            # A node that has meanwhile come back under another id has lost what it replied with.
            silence = cause_of(reply) if reply.has_error() else "it was restarted"
        elif reply.has_error():
            errors[node] = cause_of(reply)
        elif records.CALL in reply.content:
            errors[node] = "it no longer has the model of its last reply; it gets its last post"
            lost.append(node)
        else:
            contents[node] = reply.content
    silent = set(called) - contents.keys() - errors.keys()
    return Replies(contents, errors, lost, dict.fromkeys(sorted(silent), silence))


def post_of(content: RecordDict) -> Array:
    """Take the packed post out of the content of a reply.

    Raises
    ------
    RuntimeError
        If there is none.
    """
    record = content.pop(records.POST, None)
    if not isinstance(record, ArrayRecord):
        raise RuntimeError(
            "a node replied without its arrays; its train function must return them in an "
            "ArrayRecord together with the metrics"
        )
    return packed_array(record)


def copy_of(content: RecordDict) -> Array:
    """Take the packed copy of a node's exact state out of the content of a reply."""
    return packed_array(cast(ArrayRecord, content.pop(records.COPY)))


def messages_of(content: RecordDict) -> dict[int, Array]:
    """Take the messages that a node forwards out of the content of a reply, by recipient."""
    record = cast(ArrayRecord, content.pop(records.MESSAGES, ArrayRecord()))
    return {int(recipient): message for recipient, message in record.items()}


def bytes_sent(
    posts: Mapping[int, Array], states: Mapping[int, State], dtype: str, readers: Indices
) -> dict[int, int]:
    """Count the bytes that each node sends: its post, once to each of its readers.

    The bytes of a post are its values or, if it is quantized or encrypted, all that travels.
    """

    def size(node: int) -> int:
        whole = dtype == "fp32" and bool(states.get(node))
        return size_in_bytes(states[node]) if whole else len(data_of(posts[node]))

    return {node: int(readers[node]) * size(node) for node in posts}


def cause_of(reply: Message) -> str:
    """Return the exception of a reply with an error as one line."""
    return exception_line(str(reply.error.reason))


def exception_line(text: str) -> str:
    """Find the last exception in the text of an error, and format it as one line.

    Parameters
    ----------
    text : str
        A traceback of Ray, an error in Flower's format, or a sentence.

    Returns
    -------
    str
        At most 400 characters, e.g. "ValueError: no rows".

    Examples
    --------
    >>> exception_line("<class 'ZeroDivisionError'>:<'division by zero'>")
    'ZeroDivisionError: division by zero'
    """
    text = _COLOUR.sub("", text)
    wrapped = _WRAPPED.fullmatch(text)
    name, text = wrapped.groups() if wrapped else ("", text)
    whole = f"{name}: {text}" if name else text
    if (
        name.startswith("ray.") and "RayTaskError" not in name
    ):  # the end of an actor, not an error of a client
        return textwrap.shorten(whole, _LENGTH)
    raised = [_FRAME.split(link)[-1] for link in _CHAINED.split(text) if _FRAME.search(link)]
    of_the_client = [line for line in raised if _OF_FLOWER not in line.partition(":")[0]]
    return textwrap.shorten([whole, *raised, *of_the_client][-1], _LENGTH)
