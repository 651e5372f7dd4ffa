"""Atomic writes: other processes see a file or folder complete, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path, and rename it to ``target`` once the block has succeeded.

    Parameters
    ----------
    target : Path
        File or folder to create. A file may replace an existing one; a folder may replace only an
        empty one.

    Yields
    ------
    Path
        Where the block creates the file or folder. It does not exist yet, has the same name as
        ``target``, and is on the same disk.

    Raises
    ------
    OSError
        If the rename fails, e.g. because another process has created the folder first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".saving-") as temporary:
        unfinished = Path(temporary) / target.name
        yield unfinished
        os.replace(unfinished, target)


def write_atomically(file: Path, text: str) -> None:
    """Write a UTF-8 text file so that readers see either the old content or the new one."""
    with replacing(file) as unfinished:
        unfinished.write_text(text, encoding="utf8")
