"""The README keeps up with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flwr_decaf.registries import STRATEGIES
from flwr_decaf.topology.graphs import TOPOLOGIES
from flwr_decaf.topology.mixing_matrix import WEIGHTS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf8")


def test_the_tree_lists_every_file():
    tree = README.split("## The files")[1].split("```")[1]
    modules = (ROOT / "flwr_decaf").rglob("*.py")
    missing = [m.name for m in modules if m.name not in tree and m.name != "__init__.py"]
    assert missing == []


@pytest.mark.parametrize("name", [*STRATEGIES, *TOPOLOGIES, *WEIGHTS])
def test_every_name_is_mentioned(name):
    assert f"`{name}`" in README


def test_every_picture_and_linked_file_is_there():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith(("http", "#")):
            assert (ROOT / target).exists(), target


def test_the_commands_named_are_those_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
