"""A node's keys: those of ssh-keygen are read, and all others are refused without their paths."""

from __future__ import annotations

import pytest

from flwr_decaf.cli.keys import write_keys
from flwr_decaf.clients.own_keys import identity_of, read_signers
from tests.keys import needs_ssh_keygen, node_config, ssh_keygen


@needs_ssh_keygen
def test_keys_of_ssh_keygen_are_read(tmp_path):
    ssh_keygen("-t", "ed25519", "-N", "", "-f", tmp_path / "node-0")
    public = " ".join((tmp_path / "node-0.pub").read_text().split()[:2])
    (tmp_path / "allowed_signers").write_text(f"# all nodes\n\nnode-0 {public} a comment\n")
    assert identity_of(node_config(tmp_path, 0, 1)).position == 0


@needs_ssh_keygen
@pytest.mark.parametrize(
    ("options", "reason"),
    [(("-t", "ed25519", "-N", "secret"), "password"), (("-t", "ecdsa", "-N", ""), "another kind")],
)
def test_other_keys_of_ssh_keygen_are_refused(options, reason, tmp_path):
    write_keys(tmp_path / "keys", 1)
    ssh_keygen(*options, "-f", tmp_path / "node-0")
    config = node_config(tmp_path / "keys", 0, 1) | {"posts-key": str(tmp_path / "node-0")}
    with pytest.raises(ValueError, match=f"posts-key must be an Ed25519 key .*{reason}"):
        identity_of(config)


def test_a_key_that_others_can_read_is_refused_without_its_path(tmp_path):
    write_keys(tmp_path / "keys", 1)
    config = node_config(tmp_path / "keys", 0, 1)
    (tmp_path / "keys" / "node-0").chmod(0o640)
    with pytest.raises(ValueError, match="other users can read it.*chmod 600") as caught:
        identity_of(config)
    assert str(tmp_path) not in str(caught.value)
    (tmp_path / "keys" / "node-0").unlink()
    with pytest.raises(ValueError, match="No such file") as caught:
        identity_of(config)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "node-0",
        "node-0 ssh-ed25519 AAAA",
        "node-0 ssh-ed25519 not/base64!",
        "node-* {key}",
        'node-0 namespaces="file" {key}',
        "node-0 cert-authority {key}",
    ],
)
def test_lines_that_are_not_understood_are_refused(line, tmp_path):
    write_keys(tmp_path / "keys", 1)
    file = tmp_path / "keys" / "allowed_signers"
    key = file.read_text().split(maxsplit=1)[1].strip()
    file.write_text(f"\n{line.format(key=key)}\n")
    with pytest.raises(ValueError, match="allowed_signers, line 2"):
        read_signers(file)


def test_several_keys_and_principals(tmp_path):
    write_keys(tmp_path / "keys", 2)
    first, second = (
        " ".join((tmp_path / "keys" / f"node-{i}.pub").read_text().split()[:2]) for i in (0, 1)
    )
    file = tmp_path / "signers"
    file.write_text(f"node-0,node-1 {first}\nnode-0 {second}\n")
    known = read_signers(file)
    assert (len(known["node-0"]), len(known["node-1"])) == (2, 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"partition-id": None}, "partition-id must be in the node-config"),
        ({"posts-trust": "always"}, "posts-trust must be 'first-use' or absent; got 'always'"),
        ({"posts-allowed-signers": ""}, "posts-allowed-signers must be in the node-config"),
        ({"posts-allowed-signers": "/none"}, r"none cannot be read \(No such file"),
        ({"partition-id": 0}, "posts-key must be the key that allowed_signers lists for node-0"),
    ],
)
def test_node_configs_that_lack_something_are_refused(changed, message, tmp_path):
    write_keys(tmp_path / "keys", 2)
    with pytest.raises(ValueError, match=message):
        identity_of(node_config(tmp_path / "keys", 1, 2) | changed)


def test_a_node_without_keys_has_no_identity():
    assert identity_of({"partition-id": 0}) is None
