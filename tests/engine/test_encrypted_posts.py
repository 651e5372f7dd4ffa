"""Deployments that encrypt their posts: what the SuperLink, its logs and the run folder contain."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager

import pytest
import safetensors.numpy
import torch
from safetensors.torch import load, load_file

from flwr_decaf.cli.engine import Engine, superlink, supernode
from flwr_decaf.cli.flwr_run import flwr_run
from flwr_decaf.cli.keys import write_keys
from flwr_decaf.config.files import to_toml
from flwr_decaf.runs.folder import RunFolder
from tests.engine.test_flwr_run import ROOT, SETTINGS, family, same_adapters
from tests.engine.test_killed_runs import NODES, start

pytestmark = [pytest.mark.engine, pytest.mark.slow]
N = 3


class Search:
    """Searches all files of the engine and of the run for values that nodes have trained.

    The values come from the checkpoints of a run that does not encrypt its posts, which trains the
    same models.
    """

    def __init__(self, folder, needles=None):
        self.folder, self.needles, self.hits = folder, set(needles or ()), set()
        self._learns = needles is None
        self.home = None
        self.searched = 0

    def __call__(self):
        if self._learns:
            for file in (self.folder / "run" / "checkpoint").glob("round-*/posts.safetensors"):
                self._learn(file)
        for place in (self.home, self.folder):
            for file in place.rglob("*"):
                if file.is_file() and "adapter-" not in file.name:
                    self._search(file)

    def _learn(self, file):
        try:
            blobs = safetensors.numpy.load_file(file).values()
        except OSError:  # it was replaced
            return
        for blob in blobs:
            for name, x in load(blob.tobytes()).items():
                data = x.numpy().tobytes()
                if "lora_" in name and x.any():
                    self.needles.add(data[len(data) // 2 :][:24])

    def _search(self, file):
        try:
            data = file.read_bytes()
        except OSError:  # it was deleted
            return
        self.searched += 1
        if any(needle in data for needle in self.needles):
            self.hits.add(file.name)


def deploy(folder, search, node_config, **settings):
    @contextmanager
    def start(home):
        search.home = home
        with superlink(home) as env, ExitStack() as nodes:
            for place in range(N):
                nodes.enter_context(supernode(home, env, place, N, node_config(place)))
            yield env
            search()

    values = SETTINGS | settings | {
        "strategy": "dlora", "num-server-rounds": 3, "evaluate-every": 3,
        "output-dir": str(folder), "run-name": "run",
    }  # fmt: skip
    (folder / "run.toml").write_text(to_toml(values))
    flwr_run(ROOT, folder / "run.toml", Engine(start, {}), folder / "log.txt", watch=search)
    run = RunFolder(folder / "run")
    assert run.run["status"] == "finished", (folder / "log.txt").read_text()[-3000:]
    return run


def test_the_server_never_has_a_value_that_a_node_has_trained(tmp_path):
    for name in ("plain", "encrypted", "nodes"):
        (tmp_path / name).mkdir()
    write_keys(tmp_path / "nodes" / "keys", N)
    readable = Search(tmp_path / "plain")
    plain = deploy(tmp_path / "plain", readable, lambda place: "")
    assert len(readable.needles) > 20
    assert {"state.db", "posts.safetensors"} <= {
        name.removesuffix("-wal") for name in readable.hits
    }

    def own(place):
        keys = tmp_path / "nodes" / "keys"
        return (
            f"posts-key='{keys}/node-{place}' posts-allowed-signers='{keys}/allowed_signers' "
            f"adapter-path='{tmp_path}/nodes/{place}.safetensors'"
        )

    sealed = Search(tmp_path / "encrypted", readable.needles)
    run = deploy(tmp_path / "encrypted", sealed, own, **{"posts.encryption": "x25519"})
    assert sealed.searched > 100
    assert not sealed.hits
    assert not (run.path / "adapters").exists()
    for place in range(N):
        state = load_file(tmp_path / "nodes" / f"{place}.safetensors")
        expected = load_file(
            plain.path / "adapters" / f"node-{place}" / "adapter_model.safetensors"
        )
        assert state.keys() == expected.keys()
        assert all(torch.equal(x, expected[name]) for name, x in state.items())


def test_a_killed_run_is_resumed_with_the_same_keys_and_a_store_without_space(mounted, tmp_path):
    store, mount = mounted
    mount("remount,size=64k")  # the probe fits, and no post does
    write_keys(tmp_path / "keys", NODES)
    options = ("--engine=deployment", f"--keys={tmp_path / 'keys'}")
    settings = {
        "strategy": "decaf", "posts.encryption": "x25519", "posts.disclose-adapters": "true",
        "posts.store": store,
    }  # fmt: skip
    log, folder = tmp_path / "out", RunFolder(tmp_path / "run")
    process = start(tmp_path, "run", log, *options, **settings)
    while process.poll() is None and not (folder.checkpoints / "round-00002").exists():
        time.sleep(0.1)
    for victim in (process, *family(process)):
        victim.kill()
    process.wait()
    resumed = {**settings, "resume-from": folder.path}
    assert start(tmp_path, "run", log, *options, **resumed).wait(600) == 0, log.read_text()
    assert folder.run["resumed"][0]["after-round"] >= 2
    assert "it cannot write to its store" in (folder.path / "log.txt").read_text()
    whole = tmp_path / "whole"
    assert start(tmp_path, "whole", log, strategy="decaf").wait(600) == 0, log.read_text()
    assert same_adapters(RunFolder(whole), folder)
