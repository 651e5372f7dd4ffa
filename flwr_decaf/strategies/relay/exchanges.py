"""The exchanges of a round: of the posts after training, and of those after each further mix.

A mix without training is a train message that the mod answers without the user's code. The posts of
a round's last exchange are mixed with the next message, evaluation or training, as if it were the
only exchange.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from flwr.app import Message, RecordDict

from flwr_decaf.lora import State
from flwr_decaf.messages.metrics import metrics_of
from flwr_decaf.strategies.relay.session import Session
from flwr_decaf.topology.network import Network


def exchange_all(
    session: Session, replies: Iterable[Message], network: Network
) -> tuple[dict[int, RecordDict], dict[int, State], dict[int, int]]:
    """Run all exchanges of a round, each along the next graph of the network.

    A node that is missing in an exchange is left out until the next round; its links are dropped,
    so that W stays doubly stochastic in each exchange.

    Parameters
    ----------
    session : Session
        The run, at the first exchange of a round.
    replies : iterable of Message
        Replies to the train messages.
    network : Network
        Mixing matrix of every exchange.

    Returns
    -------
    contents : dict of int to RecordDict
        Replies to the train messages, as from ``Session.exchange``; their metrics include the
        seconds and counts of the mixes in between.
    states : dict of int to State
        Posts after training; empty if they are encrypted.
    sent : dict of int to int
        Bytes that each node sends in all exchanges.
    """
    contents, states, sent = session.exchange(replies, network.rows(session.turn))
    present = list(contents)
    while session.step < session.steps:
        session.step += 1
        further, _, more = session.exchange(session.mix(present), network.rows(session.turn))
        present = list(further)
        for node, content in further.items():
            sent[node] += more[node]
            _add_metrics(contents[node], content)
    return contents, states, sent


def _add_metrics(content: RecordDict, further: RecordDict) -> None:
    total = next(iter(content.metric_records.values()))
    for key, value in metrics_of(further).items():
        total[key] = cast(float, total.get(key, 0.0)) + cast(float, value)
