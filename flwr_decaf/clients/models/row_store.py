"""Tensors of rows in a SQLite file, which all actors of a machine map into memory."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

_log = logging.getLogger("flwr")

_IN_USE = 3600.0  # seconds after its last use until a file may be deleted to make room
_WAIT = 60.0  # seconds to wait for another process that is writing
_AT_ONCE = 500  # keys per query


class RowStore:
    """Tensors as bytes by key, for any number of processes; a row that was written never changes.

    SQLite keeps the file intact if a process is killed, and refuses rows that exceed the limit.
    Rows that cannot be written are skipped with a single warning, since they can be recomputed.

    Parameters
    ----------
    file : Path
        The file, in an existing folder; if it does not exist, it is created for its owner only.
    limit : int
        Maximum size of the file in bytes.

    Raises
    ------
    OSError
        If the file cannot be opened or created.
    """

    def __init__(self, file: Path, limit: int) -> None:
        self.file = file
        try:
            # SQLite's own files beside it, -wal and -shm, get the same mode.
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
            # Flower may call an actor from several threads, one after another.
            self._rows = sqlite3.connect(
                file, timeout=_WAIT, isolation_level=None, check_same_thread=False
            )
            self._rows.execute("PRAGMA journal_mode = WAL")
            self._rows.execute("PRAGMA synchronous = NORMAL")
            self._rows.execute(f"PRAGMA mmap_size = {limit}")
            (page,) = self._rows.execute("PRAGMA page_size").fetchone()
            self._rows.execute(f"PRAGMA max_page_count = {max(limit // page, 1)}")
            self._rows.execute("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, value BLOB)")
            os.utime(file)
        except sqlite3.Error as error:
            raise OSError(f"{file} cannot be opened: {error}") from error
        self._writes = True

    @property
    def limit(self) -> int:
        """Maximum size of the file in bytes, rounded down to whole pages."""
        (pages,), (page,) = (
            self._rows.execute(f"PRAGMA {what}").fetchone()
            for what in ("max_page_count", "page_size")
        )
        return int(pages * page)

    def get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the values of the keys that have one."""
        wanted = list(dict.fromkeys(keys))
        found: dict[bytes, bytes] = {}
        try:
            for start in range(0, len(wanted), _AT_ONCE):
                part = wanted[start : start + _AT_ONCE]
                marks = ", ".join("?" * len(part))
                found |= self._rows.execute(
                    f"SELECT key, value FROM rows WHERE key IN ({marks})", part
                ).fetchall()
        except sqlite3.Error as error:
            self._give_up(error)
        return found

    def add(self, values: Mapping[bytes, bytes]) -> None:
        """Write the values of new keys; values that another process has already written stay."""
        if not self._writes or not values:
            return
        try:
            self._rows.execute("BEGIN IMMEDIATE")
            self._rows.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?)", values.items())
            self._rows.execute("COMMIT")
        except sqlite3.Error as error:
            if self._rows.in_transaction:
                self._rows.execute("ROLLBACK")
            self._give_up(error)

    def _give_up(self, error: sqlite3.Error) -> None:
        if self._writes:
            _log.warning("%s: further rows are not kept (%s)", self.file, error)
        self._writes = False


def make_room(folder: Path, file: Path, needed: int, limit: int) -> int:
    """Delete the least recently used files of a folder until there is room for a file.

    Parameters
    ----------
    folder : Path
        Folder of the files.
    file : Path
        The file that needs room; it may exist.
    needed : int
        Bytes that the file needs.
    limit : int
        Bytes that all files together may take.

    Returns
    -------
    int
        Bytes that the other files leave for this one; fewer than needed if some of them were used
        within the last hour, or if the limit is lower.
    """
    others = sorted(set(folder.glob("*.sqlite")) - {file}, key=lambda x: x.stat().st_mtime)
    left = limit - sum(size_of(other) for other in others)
    for other in others:
        if left >= needed or time.time() - other.stat().st_mtime < _IN_USE:
            break
        left += size_of(other)
        for part in _parts(other):
            part.unlink(missing_ok=True)
    return left


def size_of(file: Path) -> int:
    """Return the size of a file and of SQLite's files next to it; 0 if it does not exist."""
    return sum(part.stat().st_size for part in _parts(file) if part.exists())


def _parts(file: Path) -> list[Path]:
    return [file, *(file.with_name(file.name + end) for end in ("-wal", "-shm"))]
