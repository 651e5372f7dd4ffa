"""What the relay passes on of keys, and what it can tell about encrypted posts."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict

from flwr_decaf.messages.announcement import announce, encryption_key
from flwr_decaf.messages.encryption import KIND_COPY, KIND_POST, Header, seal
from flwr_decaf.messages.packing import pack, packed
from flwr_decaf.messages.sealing import read_sealing
from flwr_decaf.strategies.relay.keyring import Keyring
from flwr_decaf.topology.network import build_time_varying_network
from tests.states import lora_state

N, EXPERIMENT, OTHER = 6, "0f" * 16, "f0" * 16
SIGNERS = [Ed25519PrivateKey.generate() for _ in range(N)]
ANNOUNCED = [announce(signer, node) for node, signer in enumerate(SIGNERS)]


def sealed(sender=2, turn=5, kind=KIND_POST, experiment=EXPERIMENT):
    key = encryption_key(SIGNERS[sender]).public_key().public_bytes_raw()
    header = Header(kind, experiment, sender, turn, (sender,))
    return packed(seal(b"a post", header, {sender: key}, SIGNERS[sender]))


def keyring(dynamic="static"):
    return Keyring(EXPERIMENT, ANNOUNCED, build_time_varying_network("ring", N, dynamic=dynamic))


@pytest.mark.parametrize("dynamic", ["static", "random-matching"])
@pytest.mark.parametrize("turn", [1, 2, 7])
def test_a_node_gets_the_keys_of_its_neighbours_in_the_exchange(dynamic, turn):
    ring = keyring(dynamic)
    w = build_time_varying_network("ring", N, dynamic=dynamic).of_round(turn)
    for node in range(N):
        content = RecordDict()
        ring.lay_into(content, node, turn)
        reported = read_sealing(content)
        neighbours = [j for j in range(N) if j != node and w[node, j] > 0]
        assert (reported.experiment, reported.turn, reported.discloses) == (EXPERIMENT, turn, False)
        assert reported.readers == {j: ANNOUNCED[j] for j in neighbours}


@pytest.mark.parametrize(
    ("post", "reason"),
    [
        (sealed(turn=4), "its header is not that of this node and this exchange"),
        (sealed(sender=1), "its header is not"),
        (sealed(experiment=OTHER), "its header is not"),
        (sealed(kind=KIND_COPY), "its header is not"),
        (pack(lora_state(1)), "it is not encrypted"),
        (packed(sealed().data[:80]), "it is truncated"),
    ],
)
def test_a_post_that_is_not_sealed_by_its_node_for_the_exchange_is_unusable(post, reason):
    causes = keyring().unusable({2: post, 3: sealed(sender=3)}, {}, turn=5)
    assert list(causes) == [2]
    assert reason in causes[2]


def test_posts_and_copies_in_order_are_usable():
    assert keyring().unusable({2: sealed()}, {2: sealed(kind=KIND_COPY)}, turn=5) == {}
    causes = keyring().unusable({2: sealed()}, {2: sealed()}, turn=5)
    assert list(causes) == [2]


class Recording:
    """A grid on which no node answers."""

    def __init__(self):
        self.messages = []

    def send_and_receive(self, messages, timeout):
        self.messages += messages
        return []


@pytest.mark.parametrize(
    ("dynamic", "known"),
    [
        ("static", {1, 5}),
        ("one-peer-exponential", {1, 2, 4}),  # numbers that differ from 0 in one bit
        ("random-matching", {1, 2, 3, 4, 5}),
    ],
)
def test_nodes_check_the_keys_of_all_that_are_ever_their_neighbours(dynamic, known):
    grid = Recording()
    keyring(dynamic).check(grid, list(range(100, 100 + N)))
    first = grid.messages[0]
    assert first.metadata.dst_node_id == 100
    assert read_sealing(first.content).readers == {j: ANNOUNCED[j] for j in known}
