"""A project that ``flwr-decaf new`` has created."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from flwr.common.config import get_project_config
from typer.testing import CliRunner

from flwr_decaf.app.client_app import app as client_app
from flwr_decaf.app.entry import server_app
from flwr_decaf.cli.commands import app
from flwr_decaf.cli.project import write_project
from flwr_decaf.clients.loading import load_task
from flwr_decaf.clients.models.adapter import get_adapter
from flwr_decaf.config import Config, flatten
from flwr_decaf.config.files import checked_settings, flat
from tests.app.test_node import context_of, message

FILES = {
    "README.md", "pyproject.toml", "conf/study.toml",
    "my_study/__init__.py", "my_study/client_app.py", "my_study/server_app.py",
}  # fmt: skip


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "My-study"
    result = CliRunner().invoke(app, ["new", str(folder)])
    assert result.exit_code == 0, result.output
    assert f"Next: cd {folder}" in result.output.replace("\n", "")
    return folder


def test_it_is_a_flower_app_with_all_settings(project):
    written = {str(file.relative_to(project)) for file in project.rglob("*") if file.is_file()}
    assert written == FILES
    assert get_project_config(project)["tool"]["flwr"]["app"]["publisher"] == "my-study"
    config = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert flat(config["config"]) == flatten(Config())
    study = checked_settings(project / "conf" / "study.toml", [], 4)
    assert study["strategy"] == "decaf, fedavg"


def test_its_apps_are_those_of_the_package_and_one_to_edit(project, monkeypatch):
    monkeypatch.syspath_prepend(project)
    server, client = (
        importlib.import_module(f"my_study.{name}").app for name in ("server_app", "client_app")
    )
    for name in ("my_study", "my_study.server_app", "my_study.client_app"):
        del sys.modules[name]
    assert server is server_app
    config = Config()
    adapter = get_adapter(load_task(config.model, config.lora, config.data).model)
    theirs, ours = (
        trained(message(adapter), context_of(0)).content["arrays"].to_torch_state_dict()
        for trained in (client, client_app)
    )
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert any(not torch.equal(ours[name], adapter[name]) for name in ours)


@pytest.mark.parametrize("name", ["2nd", "a b", "a.b", "\u00e9tude", "study-", "a--b"])
def test_a_name_that_is_none_of_a_package_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"name of a project must consist of letters"):
        write_project(tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["torch", "Flwr-decaf", "json", "class"])
def test_a_name_that_would_hide_a_package_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"installed package, .* got '{name}'; choose e.g. my-"):
        write_project(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_files_are_never_overwritten(project):
    before = (project / "README.md").read_text()
    (project / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="must be new or empty; it exists"):
        write_project(project)
    assert (project / "README.md").read_text() == "mine" != before
    with pytest.raises(ValueError, match="must be new or empty"):
        write_project(Path(project / "README.md").rename(project / "a"))
