"""Announcements: the public keys of a node, as it reports them at the roll call.

An announcement is the X25519 key that others seal posts for, the Ed25519 key that signs the node's
posts, and a signature by the latter. The relay only passes announcements on; whether the Ed25519
key is the node's is known to the other nodes, from their operators.
"""

from __future__ import annotations

from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SIGNERS_FILE = "allowed_signers"  # in a folder with the keys of all nodes, see flwr-decaf keys
LENGTH = 32 + 32 + 64
_CONTEXT = b"flwr-decaf announcement 1\x00"


class PublicKeys(NamedTuple):
    """Public keys of a node.

    Attributes
    ----------
    encryption : bytes
        X25519 key.
    signing : bytes
        Ed25519 key.
    """

    encryption: bytes
    signing: bytes


def principal_of(position: int) -> str:
    """Return the name of a node in files of allowed signers.

    Examples
    --------
    >>> principal_of(2)
    'node-2'
    """
    return f"node-{position}"


def encryption_key(signer: Ed25519PrivateKey) -> X25519PrivateKey:
    """Derive a node's X25519 key from its Ed25519 key, so that there is a single key to keep."""
    derived = HKDF(SHA256(), 32, salt=None, info=b"flwr-decaf x25519 1\x00")
    return X25519PrivateKey.from_private_bytes(derived.derive(signer.private_bytes_raw()))


def announce(signer: Ed25519PrivateKey, position: int) -> bytes:
    """Write the announcement of a node."""
    encryption = encryption_key(signer).public_key().public_bytes_raw()
    signature = signer.sign(_signed(encryption, position))
    return encryption + signer.public_key().public_bytes_raw() + signature


def read_announcement(announcement: bytes, position: int) -> PublicKeys:
    """Read an announcement, and verify its own signature.

    Raises
    ------
    ValueError
        If it is malformed, or of another node. Whether its Ed25519 key is the node's is up to the
        caller.
    """
    if len(announcement) != LENGTH:
        raise ValueError(f"an announcement of keys must have {LENGTH} bytes")
    encryption, signing = announcement[:32], announcement[32:64]
    try:
        signer = Ed25519PublicKey.from_public_bytes(signing)
        signer.verify(announcement[64:], _signed(encryption, position))
    except (InvalidSignature, ValueError) as error:
        raise ValueError("its keys are not signed by itself") from error
    _check_usable(encryption)
    return PublicKeys(encryption, signing)


def _check_usable(encryption: bytes) -> None:
    """Refuse a key of low order, for which every attempt to seal a post would fail."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(encryption))
    except ValueError as error:
        raise ValueError("its X25519 key is degenerate") from error


def _signed(encryption: bytes, position: int) -> bytes:
    return _CONTEXT + principal_of(position).encode() + b"\x00" + encryption
