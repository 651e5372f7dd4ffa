"""Replies by position in the graph: who answered, who did not, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from flwr.app import Message, RecordDict

from flwr_decaf import messages


class Replies(NamedTuple):
    """What came back from the nodes.

    Attributes
    ----------
    contents : dict of int to RecordDict
        Good replies, by position, in its order.
    causes : dict of int to str
        Why the others have none, by position.
    lost : list of int
        Nodes among the others that have lost their model.
    """

    contents: dict[int, RecordDict]
    causes: dict[int, str]
    lost: list[int]


def sort_replies(replies: Iterable[Message], nodes: Sequence[int]) -> Replies:
    """Sort replies by position.

    Parameters
    ----------
    replies : iterable of Message
        At most one a node.
    nodes : sequence of int
        The node ids asked, by position.
    """
    place = {node_id: node for node, node_id in enumerate(nodes)}
    contents: dict[int, RecordDict] = {}
    causes: dict[int, str] = {}
    lost: list[int] = []
    silent = "no reply in time"
    for reply in replies:
        node = place.get(reply.metadata.src_node_id)
        if node is None:  # the SuperLink speaks for a node that is gone, without naming it
            silent = str(reply.error.reason)
        elif reply.has_error():
            causes[node] = str(reply.error.reason)
        elif messages.CALL in reply.content:
            causes[node] = "it had lost its model; it gets back its last post"
            lost.append(node)
        else:
            contents[node] = reply.content
    missing = [node for node in place.values() if node not in contents]
    return Replies(
        dict(sorted(contents.items())), {node: causes.get(node, silent) for node in missing}, lost
    )
