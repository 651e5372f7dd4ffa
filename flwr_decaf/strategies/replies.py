"""Replies by position in the graph: who answered, who did not, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from flwr.app import Message, RecordDict

from flwr_decaf import messages


class Replies(NamedTuple):
    """What came back from the nodes that were asked.

    Attributes
    ----------
    contents : dict of int to RecordDict
        Good replies, by position.
    errors : dict of int to str
        What nodes said who answered with an error.
    lost : list of int
        Nodes among these that have lost their model.
    silence : str
        Why those that are in neither have not answered, as far as is known.
    """

    contents: dict[int, RecordDict]
    errors: dict[int, str]
    lost: list[int]
    silence: str


def sort_replies(replies: Iterable[Message], nodes: Sequence[int]) -> Replies:
    """Sort replies by position.

    Parameters
    ----------
    replies : iterable of Message
        At most one a node.
    nodes : sequence of int
        The nodes' ids, by position.
    """
    place = {node_id: node for node, node_id in enumerate(nodes)}
    sorted_ = Replies({}, {}, [], silence="no reply in time")
    for reply in replies:
        node = place.get(reply.metadata.src_node_id)
        if node is None:  # the SuperLink speaks for a node that is gone, without naming it
            sorted_ = sorted_._replace(silence=str(reply.error.reason))
        elif reply.has_error():
            sorted_.errors[node] = str(reply.error.reason)
        elif messages.CALL in reply.content:
            sorted_.errors[node] = "it had lost its model; it gets back its last post"
            sorted_.lost.append(node)
        else:
            sorted_.contents[node] = reply.content
    return sorted_
