"""What nodes report about their own rows before round 1: counts and class names, never rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from typing import cast

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from flwr_decaf.config import Config, Value
from flwr_decaf.data.own_files import DATA_PATH, OwnFiles, local_files
from flwr_decaf.data.own_rows import RowFacts, describe
from flwr_decaf.messages import records
from flwr_decaf.strategies.relay.presence import place_of
from flwr_decaf.strategies.relay.replies import cause_of
from flwr_decaf.text import first_line

_log = logging.getLogger("flwr")
_RECORD = "own-rows"
_NO_QUERY = "No query function registered"  # in the error of ClientApp
_NO_QUERY_REMEDY = (
    "add app.query()(describe_rows) to the ClientApp, with 'from flwr_decaf.app.node import "
    "describe_rows'"
)
_NO_REPLY = "no reply in time; see round-timeout"
_LENGTH = 400  # characters of a node's problem that are shown

Report = RowFacts | str  # what a node reports about its rows, or why it cannot use them


def report_on(config: Config, files: OwnFiles) -> Report:
    """Describe a node's own rows, on the node itself, or say why it cannot use them."""
    try:
        return describe(config.model, config.data, files)
    except ValueError as error:
        return first_line(error)


def look_into(config: Config, node_data: str, n: int) -> dict[int, RowFacts]:
    """Describe the rows of all nodes if their files are on this machine.

    Parameters
    ----------
    config : Config
        Settings of the run.
    node_data : str
        Path, with {} in place of the position.
    n : int
        Number of nodes.

    Raises
    ------
    ValueError
        As ``usable``.
    """
    return usable({i: report_on(config, local_files(node_data, i)) for i in range(n)})


def to_record(report: Report) -> RecordDict:
    """Pack a node's report into the content of a reply."""
    if isinstance(report, str):
        return RecordDict({_RECORD: ConfigRecord({"problem": report})})
    numbers = {"train": report.train, "test": report.test, "skipped": report.skipped}
    return RecordDict({_RECORD: ConfigRecord({**numbers, "classes": list(report.classes)})})


def from_reply(reply: Message) -> Report:
    """Read a node's report; an error of the node is its problem."""
    if reply.has_error():
        cause = _printable(cause_of(reply))
        return f"{cause}; {_NO_QUERY_REMEDY}" if _NO_QUERY in cause else cause
    record = cast(ConfigRecord, reply.content[_RECORD])
    if "problem" in record:
        return _printable(str(record["problem"]))
    train, test, skipped = (cast(int, record[key]) for key in ("train", "test", "skipped"))
    return RowFacts(train, test, skipped, tuple(map(str, cast(list[str], record["classes"]))))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:_LENGTH])


def have_own_rows(answers: Collection[ConfigRecord]) -> bool:
    """Return whether the nodes have their own rows, from their ordered answers to the roll call.

    Raises
    ------
    ValueError
        If only some of them do.
    """
    lacking = [answer for answer in answers if not answer.get(records.OWN_ROWS)]
    without = list(map(place_of, lacking))
    if 0 < len(without) < len(answers):
        n = cast(int, lacking[0]["num-partitions"])
        raise ValueError(
            f"{DATA_PATH} must be in the node-config of all nodes or of none; missing at node "
            f"{', '.join(map(str, without))}; start these SuperNodes with, e.g., --node-config "
            f'\'partition-id={without[0]} num-partitions={n} {DATA_PATH}="/data.csv" '
            'label-column="label"\''
        )
    return not without


def ask_for_rows(
    grid: Grid, nodes: Mapping[int, int], settings: Mapping[str, Value], timeout: float
) -> dict[int, Report]:
    """Ask every node about its rows.

    Parameters
    ----------
    grid : Grid
        Flower's connection to the nodes.
    nodes : mapping of int to int
        Ids of the nodes, by position.
    settings : mapping
        Settings that differ from the run-config of the nodes.
    timeout : float
        Seconds to wait for replies.

    Returns
    -------
    dict of int to Report
        Their reports, by position.
    """
    question = RecordDict({"config": ConfigRecord({"settings": json.dumps(dict(settings))})})
    asked = [Message(question, node_id, MessageType.QUERY) for node_id in nodes.values()]
    replies = {
        reply.metadata.src_node_id: from_reply(reply)
        for reply in grid.send_and_receive(asked, timeout=timeout)
    }
    return {node: replies.get(node_id, _NO_REPLY) for node, node_id in nodes.items()}


def refused_rows(
    settings: Mapping[str, Value],
    timeout: float,
    own_rows: bool,
    grid: Grid,
    nodes: Mapping[int, int],
) -> dict[int, str]:
    """Find newcomers that cannot use their own rows in a run that has started.

    Parameters
    ----------
    settings, timeout, grid, nodes
        As in ``ask_for_rows``.
    own_rows : bool
        Whether the nodes of the run have their own rows.

    Returns
    -------
    dict of int to str
        Position -> why the node cannot use its rows; empty if it has not replied in time.
    """
    reports = ask_for_rows(grid, nodes, settings, timeout) if own_rows else {}
    return {node: "" if why == _NO_REPLY else why for node, why in _problems(reports).items()}


def usable(reports: Mapping[int, Report]) -> dict[int, RowFacts]:
    """Refuse nodes that cannot use their own rows.

    Raises
    ------
    ValueError
        If there is such a node; the message contains its position and its problem.
    """
    problems = _problems(reports)
    for node, problem in problems.items():
        others = f" ({len(problems)} nodes cannot)" if len(problems) > 1 else ""
        raise ValueError(f"node {node} cannot use its own rows{others}: {problem}")
    facts = {node: report for node, report in reports.items() if isinstance(report, RowFacts)}
    for node, report in facts.items():
        if report.skipped:
            _log.warning("Node %d omits %d rows without text or label", node, report.skipped)
    return facts


def _problems(reports: Mapping[int, Report]) -> dict[int, str]:
    return {node: report for node, report in reports.items() if isinstance(report, str)}
