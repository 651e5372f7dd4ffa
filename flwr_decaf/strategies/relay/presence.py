"""The nodes' answers to the roll call: whether all nodes are there, and their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from flwr.app import ConfigRecord

from flwr_decaf.messages import records

Answers = dict[int, ConfigRecord]  # node id -> its answer


def so_far(answers: Answers, num_nodes: int | None) -> str:
    """Describe how many nodes have answered."""
    expected = _expected(answers, num_nodes) or "an unknown number"
    return f"{len(answers)} of {expected} answered the roll call"


def missing(answers: Answers, num_nodes: int | None) -> str:
    """Describe which nodes are missing, and the remedy."""
    expected = _expected(answers, num_nodes)
    if expected is None:
        remedy = (
            "give each SuperNode num-partitions in --node-config, or pass num_nodes to the strategy"
            if answers
            else "start the SuperNodes"
        )
        return f"{so_far(answers, num_nodes)}; {remedy}"
    places = {answer.get("partition-id") for answer in answers.values()}
    absent = sorted(set(range(expected)) - places)
    if None in places or len(absent) != expected - len(answers):
        who = f"{expected - len(answers)} SuperNodes"
    else:
        who = f"those with partition-id {', '.join(map(str, absent))}"
    lower = "" if num_nodes is None else ", or lower num_nodes"
    return f"{so_far(answers, num_nodes)}; start {who}{lower}"


def require_place(config: Mapping[str, object], who: str) -> None:
    """Require a partition-id and num-partitions.

    Parameters
    ----------
    config : mapping
        A node's node-config, or its answer.
    who : str
        The node, for the error.

    Raises
    ------
    RuntimeError
        If it lacks either; the message shows the option of its SuperNode.
    """
    for key in ("partition-id", "num-partitions"):
        if not isinstance(config.get(key), int):
            raise RuntimeError(
                f"{key} must be in the node-config of every SuperNode, as a number; {who} has "
                "none; start its SuperNode with, e.g. for the first of four nodes, --node-config "
                '"partition-id=0 num-partitions=4"'
            )


def require_stores(answers: Answers) -> None:
    """Require that every node has a store of posts.

    Raises
    ------
    RuntimeError
        If one has none.
    """
    if without := _positions_without(answers, records.OWN_STORE):
        raise RuntimeError(
            "posts-store must be in the node-config of every SuperNode with posts.store; missing "
            f"at node {without}; add it to --node-config, or start a "
            "simulation by flwr-decaf run"
        )


def announcements_of(answers: Answers) -> list[bytes]:
    """Return the announcements of all nodes' keys, by position.

    Raises
    ------
    RuntimeError
        If a node has none.
    """
    announced = [answer.get(records.OWN_KEYS) for answer in answers.values()]
    without = [str(place) for place, one in enumerate(announced) if not isinstance(one, bytes)]
    if without:
        raise RuntimeError(
            "posts-key must be in the node-config of every SuperNode with posts.encryption; "
            f"missing at node {', '.join(without)}; add it to --node-config, or start the run by "
            "flwr-decaf run"
        )
    return [one for one in announced if isinstance(one, bytes)]


def require_disclosure(answers: Answers) -> None:
    """Require that every node permits its final model to leave it.

    Raises
    ------
    RuntimeError
        If one does not.
    """
    if without := _positions_without(answers, records.DISCLOSES):
        raise RuntimeError(
            "posts-disclose-adapter must be true in the node-config of every SuperNode with "
            f"posts.disclose-adapters; it is not at node {without}; add it, or let "
            "nodes keep their adapters (adapter-path)"
        )


def _positions_without(answers: Answers, key: str) -> str:
    """List the positions of the nodes whose answer lacks something; empty if none does."""
    return ", ".join(str(i) for i, answer in enumerate(answers.values()) if not answer.get(key))


def check_number(answers: Answers, num_nodes: int | None) -> None:
    """Refuse more nodes than ``num_nodes``.

    Raises
    ------
    RuntimeError
        If more nodes have answered.
    """
    if num_nodes is not None and len(answers) > num_nodes:
        raise RuntimeError(
            f"num_nodes must be the number of nodes; got {num_nodes}, but {len(answers)} answered "
            "the roll call; increase num_nodes, or stop the other SuperNodes"
        )


def _expected(answers: Answers, num_nodes: int | None) -> int | None:
    """Return the expected number of nodes, and refuse contradictory numbers."""
    claims = {answer.get("num-partitions") for answer in answers.values()} - {None}
    if num_nodes is not None and claims - {num_nodes}:
        raise RuntimeError(
            f"num_nodes must be the nodes' num-partitions, {sorted(map(str, claims))}; got "
            f"{num_nodes}; omit num_nodes, or change --node-config"
        )
    if len(claims) > 1:
        raise RuntimeError(
            f"all nodes must have the same num-partitions; got {sorted(map(str, claims))}; give "
            "every SuperNode the same num-partitions in --node-config"
        )
    return cast(int, claims.pop()) if claims else num_nodes


def is_complete(answers: Answers, num_nodes: int | None) -> bool:
    """Return whether all nodes have answered.

    Raises
    ------
    RuntimeError
        If the numbers of partitions differ from one another or from ``num_nodes``.
    """
    expected = _expected(answers, num_nodes)
    return expected is not None and len(answers) >= expected


def in_order(answers: Answers) -> list[int]:
    """Sort the nodes by partition-id, or by node id if no node has one.

    Raises
    ------
    RuntimeError
        If the partition-ids are not 0 to n - 1, each once.
    """
    places = {node_id: answer.get("partition-id") for node_id, answer in answers.items()}
    if set(places.values()) == {None}:
        return sorted(places)
    if sorted(map(str, places.values())) != sorted(map(str, range(len(places)))):
        raise RuntimeError(
            f"partition-ids must be 0 to {len(places) - 1}, each once; got "
            f"{sorted(map(str, places.values()))}; fix --node-config of the SuperNodes"
        )
    return sorted(places, key=lambda node_id: cast(int, places[node_id]))
