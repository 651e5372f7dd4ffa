"""Keys of nodes that encrypt their posts, for tests."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from flwr_decaf.cli.keys import write_keys
from flwr_decaf.messages.packing import unpack_record
from tests.local_grid import LocalGrid

needs_ssh_keygen = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")


def ssh_keygen(*arguments, **options):
    command = ["ssh-keygen", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout


def node_config(folder, place, n, **more):
    """Return the node-config of a node whose keys are in a folder."""
    return {
        "partition-id": place,
        "num-partitions": n,
        "posts-key": str(folder / f"node-{place}"),
        "posts-allowed-signers": str(folder / "allowed_signers"),
        **more,
    }


def keyed_grid(app, folder, n, grid=LocalGrid, **more):
    """Return a grid whose nodes have keys in a folder, which are made if there are none."""
    if not (folder / "allowed_signers").exists():
        write_keys(folder, n)
    return grid(app, n, lambda place: node_config(folder, place, n, **more))


def models_of(grid):
    """Return the models that the nodes hold, by position."""
    return {
        place: unpack_record(grid.contexts[node_id].state["decaf.own"])
        for place, node_id in enumerate(grid.ids)
    }
