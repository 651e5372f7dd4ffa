"""Keys for nodes that encrypt their posts, in the formats of OpenSSH: ``flwr-decaf keys``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from flwr_decaf.config import Config
from flwr_decaf.messages.announcement import SIGNERS_FILE, principal_of


def write_keys(folder: Path, nodes: int) -> list[Path]:
    """Make a key for each node, as ``ssh-keygen -t ed25519`` does, and a file of allowed signers.

    Parameters
    ----------
    folder : Path
        A new or empty folder, which only its owner will be able to read.
    nodes : int
        Number of nodes.

    Returns
    -------
    list of Path
        The private keys ``node-0``, ``node-1`` and so on, then ``allowed_signers``.

    Raises
    ------
    ValueError
        If the folder contains anything, so that no key is ever replaced.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(
            f"FOLDER must be new or empty, so that no key is replaced; {folder} is not; choose "
            "another one"
        )
    lines, files = [], []
    for node in range(nodes):
        key, name = Ed25519PrivateKey.generate(), principal_of(node)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        files.append(folder / name)
        _write_private(folder / name, private)
        (folder / f"{name}.pub").write_text(f"{public} {name}\n", encoding="utf8")
        lines.append(f"{name} {public}\n")
    (folder / SIGNERS_FILE).write_text("".join(lines), encoding="utf8")
    return [*files, folder / SIGNERS_FILE]


@contextmanager
def keys_for(runs: Iterable[Config], nodes: int, given: Path | None) -> Iterator[str]:
    """Yield the folder of the nodes' keys during the block, if a run encrypts posts.

    Parameters
    ----------
    runs : iterable of Config
        Settings of the runs.
    nodes : int
        Number of nodes.
    given : Path, optional
        Folder that ``write_keys`` has filled; by default, temporary keys are made.

    Yields
    ------
    str
        The folder; empty if no run encrypts posts.

    Raises
    ------
    ValueError
        If the keys of a node are missing, or a run that is resumed needs those of its start.
    """
    encrypted = [run for run in runs if run.posts.encrypted]
    if not encrypted:
        yield ""
    elif given:
        names = [*map(principal_of, range(nodes)), SIGNERS_FILE]
        missing = [name for name in names if not (given / name).is_file()]
        if missing:
            raise ValueError(
                f"--keys must be a folder with the keys of all {nodes} nodes; {given} lacks "
                f"{', '.join(missing)}; make one with flwr-decaf keys"
            )
        yield str(given.resolve())
    elif any(run.resume_from for run in encrypted):
        raise ValueError(
            "--keys must be given to resume a run with posts.encryption, since nodes open their "
            "posts with the keys of its start; it is absent; name their folder"
        )
    else:
        with tempfile.TemporaryDirectory(prefix="flwr-decaf-keys-") as folder:
            write_keys(Path(folder), nodes)
            yield folder


def _write_private(file: Path, content: bytes) -> None:
    """Write a file that is never readable by other users, not even while it is written."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        opened.write(content)
