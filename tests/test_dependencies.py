"""What the package imports is declared with a lower bound, and nothing is installed by chance."""

from __future__ import annotations

import ast
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flwr_decaf.extras import PACKAGES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# What users can install: development tools are not for the package to import.
REQUIREMENTS = [
    Requirement(text)
    for texts in (PROJECT["dependencies"], *(EXTRAS[name] for name in EXTRAS if name != "dev"))
    for text in texts
]
DECLARED = {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}


def imported(file):
    for node in ast.walk(ast.parse(file.read_text("utf8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def third_party():
    roots = {
        name.split(".")[0] for f in (ROOT / "flwr_decaf").rglob("*.py") for name in imported(f)
    }
    return sorted(roots - sys.stdlib_module_names - {"flwr_decaf"})


@cache
def provided():
    """Return what is installed: module -> the distributions that provide it."""
    return packages_distributions()


@pytest.mark.parametrize("module", third_party())
def test_every_import_is_declared(module):
    installed = provided()
    if module in PACKAGES.values() and module not in installed:
        return  # of an extra that is not installed: see the next test
    distributions = {canonicalize_name(name) for name in installed[module]}
    assert distributions & DECLARED


@pytest.mark.parametrize("extra", PACKAGES)
def test_every_optional_package_is_that_of_an_extra(extra):
    assert PACKAGES[extra] in EXTRAS[extra][0]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_has_a_lower_bound(requirement):
    bounds = {bound.operator for bound in requirement.specifier}
    assert bounds & {">=", "==", "~="} or requirement.name == PROJECT["name"]


def test_every_requirement_is_met_by_the_constraints():
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text("utf8").splitlines():
        if "==" in line:
            name, _, version = line.partition("==")
            pinned[canonicalize_name(name)] = version
    for requirement in REQUIREMENTS:
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is None or requirement.specifier.contains(version), requirement
