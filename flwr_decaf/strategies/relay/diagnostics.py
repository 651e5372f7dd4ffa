"""Diagnostics that only the relay can compute; none of them is sent to a node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.app import ArrayRecord, RecordDict

from flwr_decaf.distances import distances_to_mean
from flwr_decaf.lora import State
from flwr_decaf.rules import RULES
from flwr_decaf.rules.energy import mean_rank
from flwr_decaf.rules.ranks import average_at_rank_of


def average(initial: State, states: Iterable[State], rule: str) -> ArrayRecord:
    """Average states by a rule with equal weights, for ``Result.arrays`` and ``evaluate_fn``.

    Parameters
    ----------
    initial : State
        Initial arrays, which complete states that contain only what was exchanged. If ranks
        differ, they determine that of the average.
    states : iterable of State
        States to average.
    rule : str
        Key of ``registries.RULES``.
    """
    whole = [_completed(initial, state) for state in states]
    return ArrayRecord(average_at_rank_of(initial, whole, RULES[rule]))


def add_diagnostics(
    contents: Mapping[int, RecordDict],
    states: Mapping[int, State],
    sent: Mapping[int, int],
    initial: State | None,
    truncated: bool = False,
) -> None:
    """Add ``bytes-sent`` to the metrics and, unless posts are encrypted, what follows from them.

    These are ``distance-to-mean`` and, for truncated posts, ``posted-rank``.

    Parameters
    ----------
    contents : mapping of int to RecordDict
        Replies, by position in the graph.
    states : mapping of int to State
        Last posts of all nodes, as their neighbours see them; empty if they are encrypted.
    sent : mapping of int to int
        Bytes that these nodes sent.
    initial : State or None
        Initial arrays, which complete the states; with None, the distance is omitted.
    truncated : bool
        Whether the ranks of posts depend on their energy; by default False.
    """
    metrics = {node: next(iter(contents[node].metric_records.values())) for node in contents}
    for node in contents:
        metrics[node]["bytes-sent"] = sent[node]
    for node in metrics.keys() & states.keys() if truncated else ():
        metrics[node]["posted-rank"] = mean_rank(states[node])
    if initial is not None and states:
        whole = [_completed(initial, state) for state in states.values()]
        distances = dict(zip(states, distances_to_mean(whole), strict=True))
        for node, record in metrics.items():
            record["distance-to-mean"] = distances[node]


def _completed(initial: State, posted: State) -> State:
    """Return the whole model of a node that posted only parts of it, or more than its model."""
    return {name: posted.get(name, x) for name, x in initial.items()}
