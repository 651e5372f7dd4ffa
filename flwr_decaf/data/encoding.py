"""Encoding of rows, cached on disk for all actors and later runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from datasets import Dataset

from flwr_decaf.data.sources import fingerprint

Row = dict[str, Any]


def encoded(
    rows: Dataset, encode: Callable[[dict[str, list[Any]]], dict[str, Any]], *settings: object
) -> Dataset:
    """Encode rows in batches, and cache the result on disk for all actors and later runs.

    Parameters
    ----------
    rows : Dataset
        The rows as loaded; their columns are replaced by the encoded ones.
    encode : callable
        Columns of a batch -> encoded columns.
    *settings
        Everything that the result of ``encode`` depends on, as the cache key.

    Returns
    -------
    Dataset
        The encoded rows.
    """
    name = repr((fingerprint(rows), settings)).encode()
    return rows.map(
        encode,
        batched=True,
        remove_columns=rows.column_names,
        new_fingerprint=hashlib.blake2b(name, digest_size=8).hexdigest(),
    )
