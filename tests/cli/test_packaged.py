"""Settings by name, and the app that the package includes."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

import flwr_decaf
from flwr_decaf.cli import packaged
from flwr_decaf.cli.packaged import app_folder, experiment_files, settings_file

ROOT = Path(__file__).parents[2]


def test_an_experiment_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settings_file(Path("ring")).samefile(ROOT / "conf" / "ring.toml")
    names = {str(file.relative_to(ROOT / "conf"))[:-5] for file in ROOT.glob("conf/**/*.toml")}
    assert experiment_files().keys() == names
    assert any("/" in name for name in names)
    own = tmp_path / "ring"
    own.write_text("")
    assert settings_file(Path("ring")).samefile(own)  # a file of the user comes first
    own.unlink()
    own.mkdir()  # a folder of runs, say
    assert settings_file(Path("ring")).samefile(ROOT / "conf" / "ring.toml")
    with pytest.raises(ValueError, match=r"got 'rings', which does not exist; did you mean 'ring'"):
        settings_file(Path("rings"))


def test_the_app_is_the_given_folder_the_current_one_or_the_packages_own(tmp_path, monkeypatch):
    app = tmp_path / "app"
    app.mkdir()
    monkeypatch.chdir(app)
    (app / "pyproject.toml").write_text("[project]\n")  # a project, but no Flower app
    with app_folder(None) as own:
        config = tomllib.loads((own / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
        assert config["components"]["serverapp"] == "flwr_decaf.app.entry:server_app"
        package = Path(flwr_decaf.__file__).parent
        modules = {file.relative_to(package) for file in package.rglob("*.py")}
        copied = own / "flwr_decaf"
        assert {file.relative_to(copied) for file in copied.rglob("*.py")} == modules
    assert not own.exists()
    with pytest.raises(ValueError, match=r"has no pyproject.toml with \[tool.flwr.app\]"):
        app_folder(app).__enter__()
    (app / "pyproject.toml").write_text("[tool.flwr.app]\n")
    with app_folder(None) as current:
        assert current == app
    monkeypatch.chdir(tmp_path)
    with app_folder(app) as given:
        assert given == app
    (app / "pyproject.toml").write_text("[tool")
    with pytest.raises(ValueError, match=r"pyproject.toml must be TOML"):
        app_folder(app).__enter__()


def test_a_wheel_has_these_files_in_a_folder_of_its_own(tmp_path, monkeypatch):
    package = tmp_path / "flwr_decaf"
    shutil.copytree(ROOT / "conf", package / "shipped" / "conf")
    monkeypatch.setattr(packaged, "_PACKAGE", package)
    assert settings_file(Path("ring")) == package / "shipped" / "conf" / "ring.toml"
