"""The nodes' answers to the roll call: what every node must have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from flwr.app import ConfigRecord

from flwr_decaf.messages import records

Answers = dict[int, ConfigRecord]  # node id -> its answer


def place_of(answer: ConfigRecord) -> int:
    """Return the node's partition-id, which ``require_place`` has checked."""
    return cast(int, answer["partition-id"])


def size_of(answers: Answers) -> int | None:
    """Return the nodes' num-partitions, or None if no node has one.

    Raises
    ------
    RuntimeError
        If they differ.
    """
    claims = {answer.get("num-partitions") for answer in answers.values()} - {None}
    if len(claims) > 1:
        raise RuntimeError(
            f"all nodes must have the same num-partitions; got {sorted(map(str, claims))}; give "
            "every SuperNode the same num-partitions in --node-config"
        )
    return cast(int, claims.pop()) if claims else None


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
    lacking = ((i, one) for i, one in enumerate(answers.values()) if not one.get(key))
    return ", ".join(str(one.get("partition-id", i)) for i, one in lacking)
