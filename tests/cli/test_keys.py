"""Keys for encrypted posts: ssh-keygen reads ours, and we read those of ssh-keygen."""

from __future__ import annotations

import shutil
import stat
import subprocess

import pytest
from typer.testing import CliRunner

from flwr_decaf.cli.commands import app
from flwr_decaf.cli.keys import keys_for, write_keys
from flwr_decaf.clients.own_keys import identity_of, read_signers
from flwr_decaf.config import parse_config
from tests.keys import node_config

ENCRYPTED = parse_config({"posts.encryption": "x25519"})
needs_ssh_keygen = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")


def ssh_keygen(*arguments, **options):
    command = ["ssh-keygen", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout


def test_the_command_makes_a_private_key_for_each_node(tmp_path):
    done = CliRunner().invoke(app, ["keys", str(tmp_path / "keys"), "--nodes", "3"])
    assert done.exit_code == 0, done.output
    files = sorted(file.name for file in (tmp_path / "keys").iterdir())
    nodes = ["node-0", "node-0.pub", "node-1", "node-1.pub", "node-2", "node-2.pub"]
    assert files == ["allowed_signers", *nodes]
    for node in range(3):
        file = tmp_path / "keys" / f"node-{node}"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        identity = identity_of(node_config(tmp_path / "keys", node, 3))
        public = identity.signer.public_key().public_bytes_raw()
        assert identity.signers[f"node-{node}"] == {public}


def test_no_key_is_replaced(tmp_path):
    write_keys(tmp_path / "keys", 1)
    before = (tmp_path / "keys" / "node-0").read_bytes()
    done = CliRunner().invoke(app, ["keys", str(tmp_path / "keys"), "--nodes", "1"])
    assert done.exit_code == 2
    assert "FOLDER must be new or empty" in done.output
    assert (tmp_path / "keys" / "node-0").read_bytes() == before


@needs_ssh_keygen
def test_ssh_keygen_reads_the_keys(tmp_path):
    write_keys(tmp_path / "keys", 2)
    key, signers = tmp_path / "keys" / "node-1", tmp_path / "keys" / "allowed_signers"
    public = (tmp_path / "keys" / "node-1.pub").read_text().split()[:2]
    assert ssh_keygen("-y", "-f", key).split()[:2] == public
    ssh_keygen("-Y", "sign", "-f", key, "-n", "file", tmp_path / "keys" / "node-1.pub")
    signature = tmp_path / "keys" / "node-1.pub.sig"
    told = ssh_keygen(
        "-Y", "verify", "-f", signers, "-I", "node-1", "-n", "file", "-s", signature,
        input=(tmp_path / "keys" / "node-1.pub").read_text(),
    )  # fmt: skip
    assert 'Good "file" signature for node-1' in told


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


class TestKeysOfARehearsal:
    def test_temporary_ones_are_deleted_at_the_end(self):
        from pathlib import Path

        with keys_for([ENCRYPTED], 2, None) as folder:
            assert (Path(folder) / "node-1").exists()
        assert not Path(folder).exists()

    def test_none_without_encryption(self):
        with keys_for([parse_config({})], 2, None) as folder:
            assert folder == ""

    def test_a_resumed_run_needs_those_of_its_start(self):
        resumed = parse_config({"posts.encryption": "x25519", "resume-from": "runs/x"})
        with (
            pytest.raises(ValueError, match="--keys must be given to resume"),
            keys_for([resumed], 2, None),
        ):
            pass

    def test_all_nodes_need_one(self, tmp_path):
        write_keys(tmp_path / "keys", 2)
        with (
            pytest.raises(ValueError, match="lacks node-2; make one with flwr-decaf keys"),
            keys_for([ENCRYPTED], 3, tmp_path / "keys"),
        ):
            pass
