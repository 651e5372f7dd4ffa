"""Uploads to a small server on this machine that answers as the Hugging Face Hub does."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from typer.testing import CliRunner

from flwr_decaf.cli.commands import app
from flwr_decaf.runs.folder import RunFolder
from tests.report.conftest import write_run

TOKEN = "hf_not_a_real_token"
BASE = "org/base"


def base():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def save_adapter(seed, path):
    model = get_peft_model(base(), LoraConfig(r=2, target_modules=["0"]))
    torch.manual_seed(seed)
    nn.init.normal_(model.base_model.model[0].lora_B["default"].weight)
    model.save_pretrained(path)
    (path / "README.md").write_text("from the run")
    (path / "notes.txt").write_text("not for the Hub")
    return model


@pytest.fixture
def run(tmp_path):
    """Return a finished run with two adapters."""
    folder = write_run(tmp_path / "run", "decaf", **{"model.name": BASE})
    for node in range(2):
        folder.save(f"node-{node}", lambda path, node=node: save_adapter(node, path))
    folder.finish("finished")
    return folder.path


@pytest.fixture
def hub():
    """Serve the requests of an upload, and keep what was uploaded."""
    uploaded, seen = {}, []

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append((self.path, self.headers.get("Authorization"), body))
            there = "http://{}:{}/me/adapters".format(*self.server.server_address)
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer({"error": "Invalid username or password."}, status=401)
            if self.path.endswith("/preupload/main"):
                files = json.loads(body)["files"]
                plain = {"uploadMode": "regular", "shouldIgnore": False}
                return self.answer({"files": [{"path": f["path"], **plain} for f in files]})
            if "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        value = line["value"]
                        uploaded[value["path"]] = base64.b64decode(value["content"])
                commit = {"commitOid": "0" * 40, "commitUrl": f"{there}/commit/{'0' * 40}"}
                return self.answer(commit | {"success": True})
            if self.path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            return self.answer({"url": there})

        def do_GET(self):
            seen.append((self.path, self.headers.get("Authorization"), b""))
            self.answer({"error": "there is none"}, status=404)

        def answer(self, content, status=200):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", uploaded, seen
    server.shutdown()
    server.server_close()


def push(*arguments, token=TOKEN, endpoint="http://127.0.0.1:9"):
    """Run the command in a process of its own: huggingface_hub reads its environment once."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    env |= {"HF_ENDPOINT": endpoint, "HF_TOKEN": token, "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-m", "flwr_decaf", "push", *map(str, arguments)],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


def dry(*arguments):
    return CliRunner().invoke(app, ["push", *map(str, arguments), "--to", "me/x", "--dry-run"])


def test_adapters_are_uploaded_with_their_cards_and_load_with_peft(run, hub, tmp_path):
    endpoint, uploaded, seen = hub
    done = push(run, "--to", "me/adapters", "--private", endpoint=endpoint)
    assert done.returncode == 0, done.stderr
    assert "Uploaded to" in done.stdout
    files = ("README.md", "adapter_config.json", "adapter_model.safetensors")
    assert sorted(uploaded) == ["README.md"] + [f"node-{n}/{f}" for n in range(2) for f in files]
    creation = json.loads(next(body for path, _, body in seen if path == "/api/repos/create"))
    assert creation["name"] == "adapters"
    assert creation["organization"] == "me"
    assert creation.get("private") or creation.get("visibility") == "private"
    # The token is in the requests, and nowhere else.
    assert TOKEN not in done.stdout + done.stderr
    assert not any(TOKEN.encode() in content for content in uploaded.values())
    front, body = uploaded["README.md"].decode().split("---\n", 2)[1:]
    assert yaml.safe_load(front)["base_model"] == BASE
    assert "[node-1](node-1/README.md) | 0.800 |" in body
    for name, content in uploaded.items():
        (tmp_path / "hub" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub" / name).write_bytes(content)
    loaded = PeftModel.from_pretrained(base(), tmp_path / "hub" / "node-1")
    x = torch.randn(4, 6)
    torch.testing.assert_close(loaded(x), save_adapter(1, tmp_path / "again")(x))
    assert loaded.peft_config["default"].base_model_name_or_path == BASE


def test_an_upload_that_the_hub_refuses_ends_with_one_line(run, hub):
    endpoint, uploaded, _ = hub
    done = push(run, "--to", "me/adapters", token="hf_another", endpoint=endpoint)
    assert (done.returncode, uploaded) == (1, {})
    assert done.stderr.startswith("Error: --to must be a repository to which you can write; got me")
    assert done.stderr.count("\n") == 1
    assert "hf_another" not in done.stdout + done.stderr


def test_a_hub_that_cannot_be_reached_is_reported_in_one_line(run):
    done = push(run, "--to", "me/adapters", endpoint="http://127.0.0.1:9")
    assert done.returncode == 1
    assert re.fullmatch(r"Error: --to must be .* but the upload failed \(.*\); .*\n", done.stderr)


def test_one_model_is_placed_at_the_top_and_a_dry_run_uploads_nothing(run):
    result = dry(run, "--nodes", "1")
    assert result.exit_code == 0, result.stderr
    names = [line.split()[0] for line in result.stdout.splitlines()[:-1]]
    assert names == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert "Nothing was uploaded to me/x" in result.stdout


def test_a_path_of_this_machine_is_not_published(run, tmp_path):
    folder = RunFolder(run)
    folder.update(settings=folder.run["settings"] | {"model.name": str(tmp_path)})
    result = dry(run)
    assert result.exit_code == 2
    assert "--base must name the base on a hub" in result.stderr
    assert result.stderr.count("\n") == 1
    assert dry(run, "--base", "org/base").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "5"], "--nodes must be nodes with a saved model; got 5"),
        (["--nodes", "first"], "--nodes must be positions of nodes, .* got 'first'"),
        (["--to", "a/b/c"], "Repo id must be in the form"),
    ],
)
def test_wrong_arguments_end_with_one_line(run, arguments, message):
    command = ["push", str(run), "--to", "me/x", "--dry-run", *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert re.search(message, result.stderr)


def test_only_finished_runs_are_uploaded(run):
    RunFolder(run).update(status="failed")
    result = dry(run)
    assert result.exit_code == 2
    assert "RUN must be the folder of a finished run" in result.stderr


def test_a_comparison_is_refused(run):
    write_run(run.parent / "other", "fedavg")
    result = dry(run.parent)
    assert result.exit_code == 2
    assert "RUN must be the folder of one run; got" in result.stderr
