from __future__ import annotations

import importlib.metadata
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flwr_decaf import extras
from flwr_decaf.cli.commands import app


@pytest.fixture
def a_package_of_the_app_is_missing(monkeypatch, tmp_path):
    declared = [
        "flwr<2,>=1.21", "no-such-optimizer>=1",  # the plug-in's own are pip's to check
        "flwr[simulation]>=1.41; extra == 'app'", 'no-such-plots>=3.8; extra == "app"',
        'no-such-solver>=1.12; extra == "dimat"', 'no-such-linter>=8; extra == "dev"',
    ]  # fmt: skip
    metadata = tmp_path / "flwr_decaf-0.1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    fields = ["Name: flwr-decaf", "Version: 0.1.0", *(f"Requires-Dist: {one}" for one in declared)]
    metadata.write_text("\n".join(fields), "utf8")
    monkeypatch.syspath_prepend(tmp_path)


def test_what_is_installed_is_enough():
    extras.require_app()
    assert importlib.metadata.requires("flwr-decaf")


@pytest.fixture
def a_thread_changes_the_path(monkeypatch):
    """Flower does so, with one folder, while the ServerApp starts."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    folders = [f"no-such-folder-{i}" for i in range(50)]
    done = threading.Event()

    def change():
        while not done.is_set():
            sys.path[:0] = folders
            del sys.path[: len(folders)]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=change)
    thread.start()
    yield
    done.set()
    thread.join()
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("a_thread_changes_the_path")
def test_packages_are_found_while_another_thread_changes_the_path():
    for _ in range(30):
        extras.require_app()


@pytest.mark.usefixtures("a_package_of_the_app_is_missing")
def test_the_command_says_in_one_line_what_to_install():
    result = CliRunner().invoke(app, ["topology", "ring"])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "not installed (no-such-plots, no-such-solver)" in result.stderr
    assert "pip install 'flwr-decaf[app]'" in result.stderr
    assert CliRunner().invoke(app, ["--version"]).exit_code == 0


def test_the_demo_packages_are_those_of_the_development_set():
    required = (Path(__file__).parents[1] / "requirements-demo.txt").read_text("utf8").split()
    assert set(extras.DEMO_PACKAGES.values()) <= set(required)
