"""Fixtures of the tests that start an engine."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


@pytest.fixture
def mounted(tmp_path):
    """A file system of a few megabytes, and a function to change its mount options."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting requires root")
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"no mount here: {done.stderr}")

    mount("size=2m")
    yield place, mount
    subprocess.run(["umount", str(place)], check=True)
