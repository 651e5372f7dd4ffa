"""A copy of the part of an app's folder that Flower bundles.

``flwr run`` examines every file below the app's folder, including virtual environments, but bundles
only a few of them. In this project's own folder, this takes 3 of its 4 seconds, so ``flwr run``
gets a copy without the other files.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_SUFFIXES = {".py", ".toml", ".md", ".yaml", ".yml", ".json", ".jsonl"}  # as in Flower
_NAMES = {"LICENSE", "LICENSE.md", ".gitignore"}
_MARKS = ("pyvenv.cfg", "run.json")  # of virtual environments and of run folders


@contextlib.contextmanager
def bundled_part(app: Path) -> Iterator[Path]:
    """Copy the files of an app that Flower may bundle to a folder that exists during the block.

    Parameters
    ----------
    app : Path
        Folder with the app's pyproject.toml.

    Yields
    ------
    Path
        The copy, without hidden folders, virtual environments and run folders.
    """
    with tempfile.TemporaryDirectory(prefix="flwr-decaf-app-") as temporary:
        part = Path(temporary) / "app"
        shutil.copytree(app, part, symlinks=True, ignore=_left_out)
        yield part


def _left_out(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not _may_be_bundled(Path(folder) / name)]


def _may_be_bundled(path: Path) -> bool:
    if path.is_symlink():  # Flower does not follow links
        return False
    if path.is_dir():
        hidden = path.name.startswith(".") or path.name == "__pycache__"
        return not hidden and not any((path / mark).exists() for mark in _MARKS)
    return path.suffix in _SUFFIXES or path.name in _NAMES
