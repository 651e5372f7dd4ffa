"""Encrypted posts: pure functions from bytes to a sealed post, and back.

A post is encrypted once, under a fresh key K, which is wrapped for each reader r::

    E, e      = a fresh X25519 key pair
    k_r       = HKDF-SHA256(X25519(e, R_r), salt = E || R_r)
    wrapped_r = ChaCha20-Poly1305(k_r, K, associated data = header)
    body      = ChaCha20-Poly1305(K, post, associated data = header)
    sealed    = header || E || wrapped_r, ... || body || Ed25519 signature of the sender

Every key encrypts a single message, so all nonces are zero. The header (``Header``) says what is in
the post, and of which experiment, turn and sender it is; it is readable, and both authenticated and
signed. Parsing only slices bytes of known lengths.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MAGIC = b"decaf\x00x1"  # no safetensors file starts with these bytes: its header would be too long
KIND_POST, KIND_COPY = "post", "copy"  # what a sealed post contains: see messages.records

_KINDS = {KIND_POST: 1, KIND_COPY: 2}
_HEAD = struct.Struct(">8s B 16s I Q I")  # magic, kind, experiment, sender, turn, number of readers
_KEY, _TAG, _SIGNATURE = 32, 16, 64
_NONCE = bytes(12)
_CONTEXT = b"flwr-decaf post 1\x00"  # of signatures and wrapped keys, so that no other can be used


class Header(NamedTuple):
    """What a sealed post says of itself.

    Attributes
    ----------
    kind : str
        ``KIND_POST``, or ``KIND_COPY`` for a node's exact state.
    experiment : str
        Id of a run and of those that resume it: 32 hexadecimal digits.
    sender : int
        Position of the node that has sealed it.
    turn : int
        Number of the exchange in the run, from 1.
    readers : tuple of int
        Positions of the nodes that can open it.
    """

    kind: str
    experiment: str
    sender: int
    turn: int
    readers: tuple[int, ...]


def new_experiment() -> str:
    """Draw the id of an experiment."""
    return os.urandom(16).hex()


def seal(
    post: bytes, header: Header, keys: Mapping[int, bytes], signer: Ed25519PrivateKey
) -> bytes:
    """Encrypt a post for its readers, and sign it.

    Parameters
    ----------
    post : bytes
        The post.
    header : Header
        Its header.
    keys : mapping of int to bytes
        X25519 public key of each reader in ``header.readers``.
    signer : Ed25519PrivateKey
        Key of the sender.

    Returns
    -------
    bytes
        The sealed post, which is ``153 + 52 * readers`` bytes longer than the post.
    """
    encoded = _encoded(header)
    key, ephemeral = os.urandom(_KEY), X25519PrivateKey.generate()
    public = ephemeral.public_key().public_bytes_raw()
    wrapped = [
        ChaCha20Poly1305(_wrapping_key(ephemeral, keys[reader], public, keys[reader])).encrypt(
            _NONCE, key, encoded
        )
        for reader in header.readers
    ]
    body = ChaCha20Poly1305(key).encrypt(_NONCE, post, encoded)
    signature = signer.sign(_signed([encoded, public, *wrapped, body]))
    return b"".join([encoded, public, *wrapped, body, signature])


def header_of(sealed: bytes) -> Header:
    """Read the header of a sealed post, which is not verified.

    Raises
    ------
    ValueError
        If the bytes are not in the format of a sealed post.
    """
    return _parsed(sealed)[0]


def open_sealed(
    sealed: bytes, reader: int, key: X25519PrivateKey, signers: Iterable[bytes]
) -> tuple[Header, bytes]:
    """Verify a sealed post, and decrypt it.

    Parameters
    ----------
    sealed : bytes
        Anything that was received as a sealed post.
    reader : int
        Position of the node that opens it.
    key : X25519PrivateKey
        Key of this node.
    signers : iterable of bytes
        Ed25519 public keys, one of which must have signed it.

    Returns
    -------
    header : Header
        Its header, which the caller compares with what it expects.
    post : bytes
        The post.

    Raises
    ------
    ValueError
        If the post is malformed, was changed, is signed by another key, or was not sealed for this
        reader.
    """
    header, encoded = _parsed(sealed)
    view = memoryview(sealed)
    digest = _signed([view[:-_SIGNATURE]])
    if not any(_is_signed(digest, sealed[-_SIGNATURE:], signer) for signer in signers):
        raise ValueError("its signature is not that of its sender")
    if reader not in header.readers:
        raise ValueError("it is not sealed for this node")
    start = len(encoded) + _KEY
    public = sealed[len(encoded) : start]
    place = start + header.readers.index(reader) * (_KEY + _TAG)
    body = start + len(header.readers) * (_KEY + _TAG)
    own = key.public_key().public_bytes_raw()
    try:
        wrapping = ChaCha20Poly1305(_wrapping_key(key, public, public, own))
        inner = wrapping.decrypt(_NONCE, sealed[place : place + _KEY + _TAG], encoded)
        post = ChaCha20Poly1305(inner).decrypt(_NONCE, view[body:-_SIGNATURE], encoded)
    except (InvalidTag, ValueError) as error:  # the latter for a degenerate public key
        raise ValueError("it is sealed for another key of this node, or was changed") from error
    return header, post


def _encoded(header: Header) -> bytes:
    experiment, count = bytes.fromhex(header.experiment), len(header.readers)
    head = _HEAD.pack(MAGIC, _KINDS[header.kind], experiment, header.sender, header.turn, count)
    return head + struct.pack(f">{count}I", *header.readers)


def _parsed(sealed: bytes) -> tuple[Header, bytes]:
    """Return the header, and the bytes that encode it."""
    if len(sealed) < _HEAD.size or not sealed.startswith(MAGIC):
        raise ValueError("it is not encrypted")
    _, number, experiment, sender, turn, count = _HEAD.unpack_from(sealed)
    kinds = {number: kind for kind, number in _KINDS.items()}
    size = _HEAD.size + 4 * count
    if number not in kinds or len(sealed) < size + _KEY + (_KEY + _TAG) * count + _TAG + _SIGNATURE:
        raise ValueError("it is truncated or malformed")
    readers = struct.unpack_from(f">{count}I", sealed, _HEAD.size)
    return Header(kinds[number], experiment.hex(), sender, turn, readers), sealed[:size]


def _wrapping_key(own: X25519PrivateKey, other: bytes, public: bytes, reader: bytes) -> bytes:
    shared = own.exchange(X25519PublicKey.from_public_bytes(other))
    return HKDF(SHA256(), _KEY, salt=public + reader, info=_CONTEXT).derive(shared)


def _signed(parts: Iterable[bytes | memoryview]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return _CONTEXT + digest.digest()


def _is_signed(message: bytes, signature: bytes, signer: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
