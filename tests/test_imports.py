"""What is imported at once, and what only when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "peft", "datasets", "ray", "matplotlib"}


def loaded(code):
    """Run code in a process of its own, and list the heavy packages that it loaded."""
    told = f"{code}\nimport sys; print('LOADED', *sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "code",
    [
        "import flwr_decaf",
        "import flwr_decaf.cli",
        "import flwr_decaf.entry",
        "import flwr_decaf.simulate",
        "from pathlib import Path; from flwr_decaf.run_settings import checked_settings; "
        "checked_settings(Path('conf/methods.toml'), ['seed=1'], n=4)",
        "from typer.testing import CliRunner; from flwr_decaf.cli import app; "
        "assert 'report' in CliRunner().invoke(app, ['--help']).stdout",
    ],
)
def test_what_should_be_quick_loads_nothing_heavy(code):
    assert loaded(code) == set()


def test_the_check_can_fail():
    assert "torch" in loaded("import flwr_decaf.client_app")
