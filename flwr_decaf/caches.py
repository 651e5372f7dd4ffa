"""Folders in which a user's processes on one machine keep copies of rows."""

from __future__ import annotations

import platform
from pathlib import Path

from huggingface_hub import cached_assets_path


def private_folder(kind: str) -> Path:
    """Return a folder under Hugging Face's cache that only its owner may enter (mode 0700).

    Each machine has its own, even if machines share the cache over a network: files that several
    processes map into memory, such as SQLite's, may not be opened from two machines at once.

    Parameters
    ----------
    kind : str
        What the folder contains, as part of its path ``assets/flwr-decaf/<kind>/<host>``.

    Raises
    ------
    OSError
        If the folder cannot be created, or belongs to another user.
    """
    host = platform.node() or "localhost"
    folder = cached_assets_path("flwr-decaf", namespace=kind, subfolder=host)
    folder.chmod(0o700)
    return folder
