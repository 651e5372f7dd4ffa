"""Sealed posts: only their readers open them, and nothing about them can be changed."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flwr_decaf.messages.announcement import announce, encryption_key, read_announcement
from flwr_decaf.messages.encryption import (
    KIND_COPY,
    KIND_POST,
    Header,
    header_of,
    new_experiment,
    open_sealed,
    seal,
)
from flwr_decaf.messages.packing import PACKED, SEALED, pack, packed, unpack
from tests.states import lora_state

EXPERIMENT = new_experiment()
SIGNERS = [Ed25519PrivateKey.from_private_bytes(bytes([node + 1]) * 32) for node in range(4)]
KEYS = [encryption_key(signer) for signer in SIGNERS]
PUBLIC = [signer.public_key().public_bytes_raw() for signer in SIGNERS]
FOR = {node: key.public_key().public_bytes_raw() for node, key in enumerate(KEYS)}
SECRET = pack(lora_state(1)).data


def sealed_by(
    sender=0, readers=(0, 1, 2), turn=3, kind=KIND_POST, experiment=EXPERIMENT, post=SECRET
):
    header = Header(kind, experiment, sender, turn, readers)
    return seal(post, header, FOR, SIGNERS[sender])


def opened(sealed, reader=1, sender=0, key=None):
    return open_sealed(sealed, reader, key or KEYS[reader], [PUBLIC[sender]])


@pytest.mark.parametrize("readers", [(0,), (0, 1), (0, 1, 2)])
def test_only_its_readers_can_open_it(readers):
    sealed = sealed_by(readers=readers)
    for reader in range(4):
        if reader in readers:
            header, post = opened(sealed, reader)
            assert post == SECRET
            assert header == header_of(sealed) == Header(KIND_POST, EXPERIMENT, 0, 3, readers)
        else:
            with pytest.raises(ValueError, match="not sealed for this node"):
                opened(sealed, reader)
    assert len(sealed) == len(SECRET) + 153 + 52 * len(readers)


def test_no_reader_but_the_named_one_unwraps_a_key():
    with pytest.raises(ValueError, match="sealed for another key of this node, or was changed"):
        opened(sealed_by(), reader=1, key=KEYS[3])


def test_nothing_of_the_post_can_be_read():
    sealed = sealed_by()
    assert not any(SECRET[i : i + 8] in sealed for i in range(0, len(SECRET) - 8, 8))
    assert sealed_by() != sealed  # a fresh key each time


def test_every_changed_byte_is_noticed():
    sealed = sealed_by(post=b"a short post")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(ValueError):  # noqa: PT011 - the message depends on the place
            opened(bytes(changed))


def test_truncated_and_extended_posts_are_refused():
    sealed = sealed_by(post=b"a short post")
    for size in range(len(sealed)):
        with pytest.raises(ValueError):  # noqa: PT011
            opened(sealed[:size])
    with pytest.raises(ValueError, match="signature"):
        opened(sealed + b"\x00")


def test_a_number_of_readers_beyond_the_bytes_is_refused():
    sealed = bytearray(sealed_by())
    sealed[37:41] = b"\xff" * 4
    with pytest.raises(ValueError, match="truncated or malformed"):
        header_of(bytes(sealed))


def test_a_neighbour_cannot_pass_a_post_off_as_that_of_another():
    forged = seal(SECRET, Header(KIND_POST, EXPERIMENT, 0, 3, (0, 1)), FOR, SIGNERS[2])
    with pytest.raises(ValueError, match="signature is not that of its sender"):
        opened(forged, reader=1, sender=0)


def test_a_reader_cannot_change_the_header_of_a_post_it_can_decrypt():
    sealed = sealed_by(turn=3)
    other = sealed_by(turn=4)
    with pytest.raises(ValueError, match="signature"):
        opened(other[:41] + sealed[41:])


def test_kinds_are_distinguished():
    assert opened(sealed_by(kind=KIND_COPY))[0].kind == KIND_COPY


@pytest.mark.parametrize("data", [b"", b"decaf\x00x1", SECRET, b"decaf\x00x1" + b"\xff" * 300])
def test_other_bytes_are_not_sealed_posts(data):
    with pytest.raises(ValueError, match="not encrypted|malformed"):
        opened(data)


def test_the_stype_follows_from_the_bytes():
    assert packed(SECRET).stype == PACKED
    assert packed(sealed_by()).stype == SEALED
    with pytest.raises(ValueError, match="it is encrypted, and the run is not"):
        unpack(packed(sealed_by()))


class TestAnnouncements:
    def test_they_carry_both_keys(self):
        keys = read_announcement(announce(SIGNERS[2], 2), 2)
        assert keys == (FOR[2], PUBLIC[2])

    def test_the_x25519_key_survives_a_restart(self):
        again = Ed25519PrivateKey.from_private_bytes(SIGNERS[2].private_bytes_raw())
        assert encryption_key(again).public_key().public_bytes_raw() == FOR[2]

    @pytest.mark.parametrize("place", [0, 40, 100])
    def test_changed_ones_are_refused(self, place):
        changed = bytearray(announce(SIGNERS[2], 2))
        changed[place] ^= 1
        with pytest.raises(ValueError, match="not signed by itself"):
            read_announcement(bytes(changed), 2)

    def test_those_of_another_position_are_refused(self):
        with pytest.raises(ValueError, match="not signed by itself"):
            read_announcement(announce(SIGNERS[2], 2), 1)

    def test_those_of_another_length_are_refused(self):
        with pytest.raises(ValueError, match="must have 128 bytes"):
            read_announcement(announce(SIGNERS[2], 2) + b"\x00", 2)

    def test_degenerate_keys_are_refused(self):
        zero = bytes(32)
        signature = SIGNERS[2].sign(b"flwr-decaf announcement 1\x00node-2\x00" + zero)
        with pytest.raises(ValueError, match="degenerate"):
            read_announcement(zero + PUBLIC[2] + signature, 2)
