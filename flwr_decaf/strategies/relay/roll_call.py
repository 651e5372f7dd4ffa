"""The roll call: the registered nodes, and their positions in the graph.

Flower's node ids are random and new in each run, and a ServerApp starts before its nodes have
registered. Every node is therefore asked for its partition-id and num-partitions, and nothing
starts until all have replied. A position in the graph thus stands for the same data in every run.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Iterable
from typing import cast

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from flwr_decaf.messages import records
from flwr_decaf.strategies.relay.presence import Answers, require_place
from flwr_decaf.strategies.relay.quorum import AllNodes, Quorum
from flwr_decaf.strategies.relay.replies import cause_of

_log = logging.getLogger("flwr")
_PATIENCE = 120.0  # seconds without a new node before the roll call gives up
_REPORT = 10.0  # seconds between two reports of missing nodes
_PAUSE = 0.2  # seconds between two queries of the registered nodes
_LEGACY = "fitins.parameters"  # the record that a client_fn looks for in a message
_NO_EVALUATE = "No evaluate function registered"  # in the error of ClientApp
_NO_TRAIN = "No train function registered"
# Errors of a train function or of Flower's mods that are called with a message without arrays.
_NO_ARRAYS = re.compile("KeyError|IndexError|StopIteration|.*exactly one ArrayRecord")
_NO_MOD = (
    "its ClientApp lacks the mod, or has another mod before it; write "
    "ClientApp(mods=[peer_mixing, ...]) with 'from flwr_decaf.clients import peer_mixing'"
)


def roll_call(
    grid: Grid,
    num_nodes: int | None = None,
    patience: float = _PATIENCE,
    report_every: float = _REPORT,
) -> list[int]:
    """Wait for all nodes, and sort them by partition.

    Parameters
    ----------
    grid, patience, report_every
        As in ``presences``.
    num_nodes : int, optional
        Number of nodes to wait for; by default the nodes' own ``num-partitions``.

    Returns
    -------
    list of int
        Node ids; the index in the list is the position in the graph, and equals the
        partition-id. If no node has a partition-id, as in some deployments, nodes are sorted by
        node id.

    Raises
    ------
    RuntimeError
        As ``presences``.
    """
    return list(presences(grid, AllNodes(num_nodes), patience, report_every))


def presences(
    grid: Grid,
    quorum: Quorum,
    patience: float = _PATIENCE,
    report_every: float = _REPORT,
    placed: bool = False,
) -> Answers:
    """Wait for nodes, and return what they report, in the order of ``roll_call``.

    Parameters
    ----------
    grid : Grid
        Flower's connection to the nodes.
    quorum : Quorum
        The nodes to wait for.
    patience : float
        Seconds to wait for another node; by default 120.
    report_every : float
        Seconds between two log lines with the number of nodes that have replied; by default 10.
    placed : bool
        Whether every node must have a partition-id and num-partitions; by default False.

    Returns
    -------
    dict of int to ConfigRecord
        Node id -> its answer.

    Raises
    ------
    RuntimeError
        If nodes are missing, there are too many, they disagree about the number of partitions,
        share a partition, lack one although ``placed`` is true, or run a ClientApp
        without ``peer_mixing``.
    """
    answers: Answers = {}
    last_arrival = last_report = time.monotonic()
    while not quorum.is_complete(answers):
        new, now = set(grid.get_node_ids()) - answers.keys(), time.monotonic()
        if new:
            answers |= _ask(grid, sorted(new))
            for node_id, answer in answers.items() if placed else ():
                require_place(answer, f"node {node_id}")
            last_arrival = time.monotonic()
        elif now - last_arrival > patience:
            if quorum.suffices(answers):
                break
            raise RuntimeError(f"waited {patience:.0f} s for nodes: {quorum.missing(answers)}")
        else:
            time.sleep(_PAUSE)
        if now - last_report > report_every:
            _log.info("Roll call: %s", quorum.so_far(answers))
            last_report = now
    ordered = quorum.in_order(answers)
    _log.info("Roll call: all %d nodes are there", len(answers))
    return {node_id: answers[node_id] for node_id in ordered}


def newcomers(grid: Grid, unknown: Collection[int]) -> Answers:
    """Ask nodes that have registered since the roll call.

    Returns
    -------
    dict of int to ConfigRecord
        Node id -> its answer. Nodes that reply with an error are omitted: they may still be
        starting, or be gone again.
    """
    replies = _put(grid, sorted(unknown)) if unknown else []
    answers: Answers = {}
    for reply in replies:
        node_id = reply.metadata.src_node_id
        if node_id not in unknown or reply.has_error():
            _log.warning("A new node did not answer the roll call; it will be asked again")
        else:
            answer = reply.content.get(records.CALL, ConfigRecord())
            answers[node_id] = cast(ConfigRecord, answer)
    return answers


def has_evaluate(grid: Grid, node_id: int) -> bool:
    """Ask a node whether its ClientApp, which all nodes run, has an evaluate function.

    Raises
    ------
    RuntimeError
        If the function runs without the mod.
    """
    for reply in _put(grid, [node_id], MessageType.EVALUATE):
        if reply.has_error():
            return _NO_EVALUATE not in str(reply.error.reason)
        _check_answered(reply, "evaluate")
    return True


def _put(grid: Grid, node_ids: list[int], kind: str = MessageType.TRAIN) -> Iterable[Message]:
    question = RecordDict({records.CALL: ConfigRecord({"ask": records.ROLL_CALL})})
    asked = [
        Message(content=question, message_type=kind, dst_node_id=node_id) for node_id in node_ids
    ]
    return grid.send_and_receive(asked, timeout=_PATIENCE)


def _ask(grid: Grid, node_ids: list[int]) -> Answers:
    answers: Answers = {}
    for reply in _put(grid, node_ids):
        _check_answered(reply, "train")
        answers[reply.metadata.src_node_id] = cast(ConfigRecord, reply.content[records.CALL])
    return answers


def _check_answered(reply: Message, function: str) -> None:
    node_id = reply.metadata.src_node_id
    if not reply.has_error():
        if records.CALL not in reply.content:
            raise RuntimeError(
                f"node {node_id} ran its {function} function instead of answering the roll call, "
                f"so {_NO_MOD}"
            )
        return
    cause = cause_of(reply)
    if _LEGACY in cause:
        raise RuntimeError(
            "the ClientApp has a client_fn (NumPyClient or Client) of Flower's legacy API; "
            "register functions with @app.train() and @app.evaluate() instead, and write "
            "ClientApp(mods=[peer_mixing])"
        )
    if _NO_TRAIN in cause:
        raise RuntimeError("the ClientApp has no train function; register one with @app.train()")
    remedy = f"most likely {_NO_MOD}" if _NO_ARRAYS.match(cause) else "fix its cause"
    raise RuntimeError(f"node {node_id} failed in the roll call: {cause}; {remedy}")
