"""What is imported immediately, and what only when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "peft", "datasets", "ray", "matplotlib"}
OF_THE_PLUG_IN = (
    "flwr.app, flwr.clientapp, flwr.serverapp, networkx, numpy, safetensors.torch, torch"
)
OF_THE_APP_ALONE = {
    "PIL", "datasets", "flwr_datasets", "pandas", "peft", "psutil", "scipy", "transformers",
}  # fmt: skip


def loaded(code):
    """Run code in a process of its own, and list the heavy packages that it loaded."""
    program = f"{code}\nimport sys; print('LOADED', *sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "code",
    [
        "import flwr_decaf",
        "import flwr_decaf.cli.commands",
        "import flwr_decaf.app.entry",
        "import flwr_decaf.cli.simulate",
        "from pathlib import Path; from flwr_decaf.config.files import checked_settings; "
        "checked_settings(Path('conf/methods.toml'), ['seed=1'], n=4)",
        "from typer.testing import CliRunner; from flwr_decaf.cli.commands import app; "
        "assert 'report' in CliRunner().invoke(app, ['--help']).stdout",
    ],
)
def test_what_should_be_quick_loads_nothing_heavy(code):
    assert loaded(code) == set()


def test_the_check_can_fail():
    assert loaded("import torch") == {"torch"}


def packages(code):
    """Run code in a process of its own, and list the third-party packages that it loaded."""
    program = f"{code}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    names = set(done.stdout.splitlines()[-1].split()) - sys.stdlib_module_names
    return {name for name in names if not name.startswith("_")} - {"flwr_decaf"}


def test_the_plug_in_loads_no_package_but_its_own_few():
    mine = packages("import flwr_decaf.clients, flwr_decaf.strategies")
    assert mine <= packages(f"import {OF_THE_PLUG_IN}")
    assert not mine & OF_THE_APP_ALONE


def test_a_project_runs_without_the_packages_of_the_app():
    code = f"""
import sys
sys.modules |= dict.fromkeys({sorted(OF_THE_APP_ALONE)!r})  # importing one is an ImportError
import torch
from flwr.app import ArrayRecord
from flwr_decaf.strategies import DLoRA
from tests import conftest
from tests.apps.pure_mixing import app
from tests.local_grid import LocalGrid
grid, start = LocalGrid(app, 4), ArrayRecord({{"x": torch.zeros(2, dtype=torch.float64)}})
strategy = DLoRA("complete", dynamic="edge-activation", weights="laplacian")
strategy.start(grid, start, num_rounds=2)
assert len(strategy.collect(grid)) == 4
"""
    subprocess.run([sys.executable, "-c", code], check=True)
