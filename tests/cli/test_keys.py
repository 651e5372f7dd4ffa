"""The command that makes keys for encrypted posts, which ssh-keygen reads."""

from __future__ import annotations

import stat

import pytest
from typer.testing import CliRunner

from flwr_decaf.cli.commands import app
from flwr_decaf.cli.keys import keys_for, write_keys
from flwr_decaf.clients.own_keys import identity_of
from flwr_decaf.config import parse_config
from tests.keys import needs_ssh_keygen, node_config, ssh_keygen

ENCRYPTED = parse_config({"posts.encryption": "x25519"})


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
    output = ssh_keygen(
        "-Y", "verify", "-f", signers, "-I", "node-1", "-n", "file", "-s", signature,
        input=(tmp_path / "keys" / "node-1.pub").read_text(),
    )  # fmt: skip
    assert 'Good "file" signature for node-1' in output


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
