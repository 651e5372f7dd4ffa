"""Tickets: packed states in messages are replaced by tickets on their way, and back on arrival."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from flwr.app import Array, ArrayRecord, RecordDict

from flwr_decaf.messages.packing import PACKED, SEALED, STORED

Swap = Callable[[Sequence[Array]], Sequence[Array]]


def deposit(contents: Iterable[RecordDict], put: Swap) -> None:
    """Replace all packed states in contents of messages by what ``put`` makes of them."""
    _replace(contents, (PACKED, SEALED), put)


def redeem(contents: Iterable[RecordDict], get: Swap) -> None:
    """Replace all tickets in contents of messages by what ``get`` makes of them."""
    _replace(contents, (STORED,), get)


def _replace(contents: Iterable[RecordDict], stypes: Collection[str], swap: Swap) -> None:
    records = [
        (content, name, record)
        for content in contents
        for name, record in content.array_records.items()
        if any(array.stype in stypes for array in record.values())
    ]
    # A post that is in several messages is swapped once.
    arrays = {id(a.data): a for *_, record in records for a in record.values() if a.stype in stypes}
    swapped = dict(zip(arrays, swap(list(arrays.values())), strict=True)) if arrays else {}
    for content, name, record in records:  # records are replaced, since nodes keep some of them
        content[name] = ArrayRecord(
            {key: swapped.get(id(array.data), array) for key, array in record.items()}
        )
