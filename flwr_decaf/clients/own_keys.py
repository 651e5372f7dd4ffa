"""The keys of a node, if its posts are encrypted: in files that only its node-config names.

    --node-config 'partition-id=0 num-partitions=4 posts-key="/keys/node-0"
        posts-allowed-signers="/keys/allowed_signers"'

``posts-key`` is a private Ed25519 key made by ssh-keygen, ``posts-allowed-signers`` a file in the
format of ssh-keygen with the public keys of all nodes, whose principals are node-0, node-1 and so
on. ``posts-trust="first-use"`` takes the place of the file. For nodes on its machine, ``flwr-decaf
run`` sets the environment variable ``KEYS_VARIABLE`` instead.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from flwr_decaf.messages.announcement import (
    SIGNERS_FILE,
    announce,
    encryption_key,
    principal_of,
)
from flwr_decaf.messages.shared_posts import KEYS_VARIABLE

POSTS_KEY, ALLOWED_SIGNERS, TRUST = "posts-key", "posts-allowed-signers", "posts-trust"
DISCLOSE = "posts-disclose-adapter"
FIRST_USE = "first-use"
_TYPE = "ssh-ed25519"


@dataclass(frozen=True)
class Identity:
    """A node's position and keys, and the keys of other nodes.

    Attributes
    ----------
    position : int
        Position of the node.
    signer : Ed25519PrivateKey
        Key that signs its posts.
    signers : mapping of str to frozenset of bytes
        Principal -> its Ed25519 public keys.
    first_use : bool
        Whether keys of nodes that are not in ``signers`` are trusted on first use.
    """

    position: int
    signer: Ed25519PrivateKey
    signers: Mapping[str, frozenset[bytes]]
    first_use: bool

    @property
    def key(self) -> X25519PrivateKey:
        """Key that opens posts."""
        return encryption_key(self.signer)

    @property
    def announcement(self) -> bytes:
        """What the node announces at the roll call."""
        return announce(self.signer, self.position)


def has_own_keys(node_config: Mapping[str, object]) -> bool:
    """Return whether the node's own node-config demands that its posts are encrypted."""
    return POSTS_KEY in node_config


def discloses_model(node_config: Mapping[str, object]) -> bool:
    """Return whether a node may send its final model, if the run asks for it.

    The settings of a run alone cannot permit it, unless the nodes belong to whoever starts the run.
    """
    return bool(node_config.get(DISCLOSE, not has_own_keys(node_config)))


def identity_of(node_config: Mapping[str, object]) -> Identity | None:
    """Read a node's keys; None if it has none.

    Raises
    ------
    ValueError
        If a file cannot be read or is not in its format, the private key can be read by other
        users, or the node's public key is not that of its position.
    """
    if not has_own_keys(node_config) and KEYS_VARIABLE not in os.environ:
        return None
    position = node_config.get("partition-id")
    if not isinstance(position, int):
        raise ValueError(
            f"partition-id must be in the node-config of a node with {POSTS_KEY}; it is not there; "
            "add it to --node-config"
        )
    trust = node_config.get(TRUST, "")
    if trust not in ("", FIRST_USE):
        raise ValueError(
            f"{TRUST} must be {FIRST_USE!r} or absent; got {str(trust)!r}; name a file in "
            f"{ALLOWED_SIGNERS} instead"
        )
    key, signers = _files(node_config, position)
    if not signers and not trust:
        raise ValueError(
            f"{ALLOWED_SIGNERS} must be in the node-config of a node with {POSTS_KEY}; it is not "
            f"there; name the file, or set {TRUST} to {FIRST_USE!r}"
        )
    signer = _read_key(Path(key))
    known = read_signers(Path(signers)) if signers else {}
    _check_own(signer, known, position, signers)
    return Identity(position, signer, known, first_use=bool(trust))


def _files(node_config: Mapping[str, object], position: int) -> tuple[str, str]:
    if has_own_keys(node_config):
        return str(node_config[POSTS_KEY]), str(node_config.get(ALLOWED_SIGNERS, ""))
    folder = Path(os.environ[KEYS_VARIABLE])
    return str(folder / principal_of(position)), str(folder / SIGNERS_FILE)


def _read_key(file: Path) -> Ed25519PrivateKey:
    try:
        if os.name == "posix" and stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise ValueError("other users can read it")
        key = load_ssh_private_key(file.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("it is another kind of key")
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: passphrase
        raise ValueError(
            f"{POSTS_KEY} must be an Ed25519 key of OpenSSH without a passphrase that only its "
            f"owner can read; got {file.name} ({_without_path(error)}); make one with ssh-keygen "
            f'-t ed25519 -N "" -f {file.name}, or run chmod 600'
        ) from error
    return key


def _without_path(error: Exception) -> str:
    """Describe an error without the path that an OSError names: errors travel to the relay."""
    return str(error.strerror if isinstance(error, OSError) else error)


def read_signers(file: Path) -> dict[str, frozenset[bytes]]:
    """Read the Ed25519 keys of a file of allowed signers, by principal.

    Raises
    ------
    ValueError
        If the file cannot be read, or a line has options or patterns, which are not supported.
    """
    known: dict[str, frozenset[bytes]] = {}
    try:
        lines = file.read_text("utf8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{ALLOWED_SIGNERS} must be a file of ssh-keygen; {file.name} cannot be read "
            f"({_without_path(error)}); make one with flwr-decaf keys"
        ) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        principals, public = _read_line(line, f"{file.name}, line {number}")
        for principal in principals:
            known[principal] = known.get(principal, frozenset()) | {public}
    return known


def _read_line(line: str, where: str) -> tuple[list[str], bytes]:
    try:
        principals, kind, encoded, *_ = line.split()
        if kind != _TYPE or set(principals) & set('*?!"'):
            raise ValueError("options, patterns and other kinds of keys are not supported")
        public = load_ssh_public_key(f"{kind} {encoded}".encode())
        if not isinstance(public, Ed25519PublicKey):
            raise ValueError("it is another kind of key")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(
            f"{ALLOWED_SIGNERS} must have lines of the form node-0 {_TYPE} AAAA...; got another "
            f"one in {where} ({error}); make the file with flwr-decaf keys"
        ) from error
    return principals.split(","), public.public_bytes_raw()


def _check_own(
    signer: Ed25519PrivateKey, known: Mapping[str, Collection[bytes]], position: int, file: str
) -> None:
    own = principal_of(position)
    if file and signer.public_key().public_bytes_raw() not in known.get(own, ()):
        raise ValueError(
            f"{POSTS_KEY} must be the key that {Path(file).name} lists for {own}; it is "
            "another one; check partition-id and both files"
        )
