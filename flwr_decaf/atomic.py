"""Files and folders that appear whole or not at all, whatever process looks for them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target``, and rename it to ``target`` when the block has succeeded.

    Parameters
    ----------
    target : Path
        File or folder to make. A file may replace an older one; a folder replaces an empty one
        alone.

    Yields
    ------
    Path
        Where the block writes the file or makes the folder. It does not exist yet, and has the
        name of ``target``.

    Raises
    ------
    OSError
        If it cannot be renamed, for instance since another process was faster with a folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".saving-") as temporary:
        unfinished = Path(temporary) / target.name
        yield unfinished
        os.replace(unfinished, target)


def write_atomically(file: Path, text: str) -> None:
    """Write a text file, in UTF-8, so that readers see the old content or the new one."""
    with replacing(file) as unfinished:
        unfinished.write_text(text, encoding="utf8")
