"""Sealing: what the relay sends to a node whose posts are encrypted, and how a message says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from flwr.app import ConfigRecord, RecordDict

from flwr_decaf.messages.records import SEALING


@dataclass(frozen=True)
class Sealing:
    """For whom a node seals its next post.

    Attributes
    ----------
    experiment : str
        Id of the run: see ``encryption.Header``.
    turn : int
        Exchange in which the post takes part.
    readers : mapping of int to bytes
        Announcements of the neighbours in this exchange, by position; by default none.
    discloses : bool
        Whether nodes send their final models without encryption; by default False.
    """

    experiment: str
    turn: int
    readers: Mapping[int, bytes] = field(default_factory=dict)
    discloses: bool = False


def put_sealing(content: RecordDict, sealing: Sealing) -> None:
    """Add the record to the content of a message."""
    content[SEALING] = ConfigRecord(
        {
            "experiment": sealing.experiment,
            "turn": sealing.turn,
            "readers": list(sealing.readers),
            "announcements": list(sealing.readers.values()),
            "discloses": sealing.discloses,
        }
    )


def read_sealing(content: RecordDict) -> Sealing | None:
    """Read the record in a message; None if its run does not encrypt posts."""
    if SEALING not in content:
        return None
    record = cast(ConfigRecord, content[SEALING])
    readers = cast(list[int], record["readers"])
    announcements = cast(list[bytes], record["announcements"])
    return Sealing(
        cast(str, record["experiment"]),
        cast(int, record["turn"]),
        dict(zip(readers, announcements, strict=True)),
        cast(bool, record["discloses"]),
    )
