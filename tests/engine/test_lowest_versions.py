"""The plug-in on the lowest versions that it declares, each from its own distribution.

torch is omitted: an older version would install gigabytes of CUDA packages.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]


def lowest(requirements):
    for requirement in map(Requirement, requirements):
        (bound,) = (s.version for s in requirement.specifier if s.operator == ">=")
        yield f"{requirement.name}=={bound}"


def test_projects_run_on_the_lowest_versions(tmp_path):
    pinned = [pin for pin in lowest(PROJECT["dependencies"]) if not pin.startswith("torch")]
    for command in (
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path, *pinned],
        [sys.executable, "-m", "pytest", "-q", "tests/test_projects.py", "-p", "no:cacheprovider"],
    ):
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
