"""Open membership: what it excludes, and what the mailbox does for nodes that come and go."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from flwr_decaf.config import Membership
from flwr_decaf.messages.checkpoint import Checkpoint
from flwr_decaf.strategies.relay.checks import excluded
from flwr_decaf.strategies.relay.graph_options import GraphOptions
from flwr_decaf.strategies.relay.mailbox import Mailbox
from flwr_decaf.strategies.relay.roster import Changes
from flwr_decaf.topology.graphs import Matrix
from flwr_decaf.topology.membership import check_any_size, closest
from flwr_decaf.topology.mixing_steps import PERIOD

_log = logging.getLogger("flwr")


def check_open(
    options: Mapping[str, Any], graph: GraphOptions, mixing_steps: str, num_nodes: int | None
) -> None:
    """Refuse options that need to know all nodes before the first round, with open membership.

    Parameters
    ----------
    options : mapping of str to object
        Option objects of a strategy, by name.
    graph : GraphOptions
        Its graph.
    mixing_steps : str
        Number of exchanges in a round, or "period".
    num_nodes : int or None
        Number of nodes to wait for.

    Raises
    ------
    ValueError
        If membership is open, and such an option is set.
    """
    membership: Membership = options["membership"]
    if not membership.is_open:
        return
    if num_nodes is not None:
        refuse_open(membership, "num_nodes", "a run starts with topology.quorum nodes")
    check_any_size(graph.topology)
    if mixing_steps == PERIOD:
        refuse_open(membership, "mixing-steps = period", "a period depends on the number of nodes")
    if options["posts"].encrypted:
        what = "a newcomer starts from the post of a neighbour, which it could not decrypt"
        refuse_open(membership, "posts.encryption", what)
    if options["attack"].sign_flipping:
        refuse_open(
            membership, "attack.sign-flipping", "its nodes are drawn before the first round"
        )
    if options["participation"].schedule:
        refuse_open(membership, "participation", "a schedule names nodes that may have left")


def refuse_open(membership: Membership, what: str, reason: str) -> None:
    """Refuse open membership with something that excludes it.

    Raises
    ------
    ValueError
        If membership is open.
    """
    if membership.is_open:
        raise excluded("topology.membership", "closed", "open", what, reason)


def check_same(membership: Membership, checkpoint: Checkpoint | None) -> None:
    """Refuse to resume with another membership than that of the checkpoint.

    Raises
    ------
    ValueError
        If one is open and the other is closed.
    """
    if checkpoint and bool(checkpoint.members) != membership.is_open:
        was = "open" if checkpoint.members else "closed"
        raise ValueError(
            f"topology.membership must be that of the checkpoint, {was}; got "
            f"{membership.membership}; change it, or start a new run"
        )


def restore(mailbox: Mailbox, checkpoint: Checkpoint, positions: Collection[int]) -> None:
    """Restore a checkpoint, without its members that are not among the nodes of the resumed run."""
    mailbox.restore(checkpoint)
    for node in sorted(checkpoint.members.keys() - set(positions)):
        _log.warning("Node %d has left: it is not there as the run resumes", node)
        mailbox.forget(node)


def follow(mailbox: Mailbox, changes: Changes, w: Matrix) -> None:
    """Prepare the mail of nodes that are back, have left, or have joined.

    A newcomer starts from the model of a neighbour that has one: see ``Mailbox.adopt``.

    Parameters
    ----------
    mailbox : Mailbox
        Posts and mail of the nodes.
    changes : Changes
        What has changed.
    w : ndarray
        Mixing matrix of the network with the newcomers.
    """
    for node in changes.back:  # it receives its last post again
        mailbox.lost(node)
    for node in changes.left:
        mailbox.forget(node)
    settled = list(changes.settled)
    for node in changes.joined:
        source = closest(node, w, settled)
        if source is not None:
            mailbox.adopt(node, source)
        settled.append(node)
