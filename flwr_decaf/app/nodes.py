"""The nodes with which a run starts or resumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

from flwr.serverapp import Grid

from flwr_decaf.config import Config
from flwr_decaf.strategies.relay.presence import Answers, place_of, size_of
from flwr_decaf.strategies.relay.quorum import AllNodes, SomeNodes
from flwr_decaf.strategies.relay.roll_call import presences


class Nodes(NamedTuple):
    """Nodes by position.

    Attributes
    ----------
    ids : mapping of int to int
        Position -> Flower's id of the node that is there.
    n : int
        Number of positions; with open membership, not all are taken.
    """

    ids: Mapping[int, int]
    n: int


def call_nodes(grid: Grid, config: Config, resumes: bool) -> tuple[Nodes, Answers]:
    """Wait for the nodes of a run, and return them with what they report.

    With open membership, a run that ``resumes`` from a checkpoint needs only one of them, since the
    strategy waits for those of the checkpoint; one that starts needs its quorum.

    Raises
    ------
    RuntimeError
        As ``presences``.
    """
    topology = config.topology
    some = SomeNodes(1 if resumes else topology.quorum)
    quorum = some if topology.is_open else AllNodes()
    answers = presences(grid, quorum, placed=True)
    ids = {place_of(answer): node_id for node_id, answer in answers.items()}
    return Nodes(ids, cast(int, size_of(answers))), answers
