"""The README and the pages of docs/ match the code."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from flwr.clientapp import ClientApp

from flwr_decaf.cli.commands import app
from flwr_decaf.registries import STRATEGIES
from flwr_decaf.strategies import DLoRA
from flwr_decaf.topology.graphs import TOPOLOGIES
from flwr_decaf.topology.time_varying import DYNAMIC
from flwr_decaf.topology.weights import WEIGHTS

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))
EXAMPLE = "share_a"  # the rule that docs/own-rule.md writes

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_readme_names_every_strategy(name):
    assert f"| `{name}` |" in PAGES[0].read_text("utf8")


@pytest.mark.parametrize("name", [*TOPOLOGIES, *WEIGHTS, *DYNAMIC])
def test_the_page_on_topologies_names_all(name):
    assert f"`{name}`" in (ROOT / "docs/topologies.md").read_text("utf8")


def test_the_architecture_lists_every_module():
    files = (ROOT / "docs/architecture.md").read_text("utf8").split("## Files")[1]
    folder, listed = "", {}
    for line in files.split("\n"):
        if found := re.match(r" *(\w+)/|  \w+\.py", line):
            folder = found[1] or "flwr_decaf"
        listed.setdefault(folder, set()).update(re.findall(r"\w+", line))
    for path in (ROOT / "flwr_decaf").rglob("*.py"):
        assert path.stem in {"__init__", "__main__", *listed[path.parent.name]}, path


def test_the_architecture_lists_the_layers_that_are_enforced():
    page = (ROOT / "docs/architecture.md").read_text("utf8").split("## Layers")[1]
    rows = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in page.split("\n") if "| `" in row]
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    layers = next(contract for contract in contracts if contract["type"] == "layers")["layers"]
    assert rows == [layer.split(" | ") for layer in layers]


def test_the_two_lines_of_the_readme_run():
    page = PAGES[0].read_text("utf8").split("## Two lines")[1].split("\n## ")[0]
    server, client = re.findall(r"`(\w+\.py)`.*?```python\n(.*?)```", page, flags=re.DOTALL)
    assert (server[0], client[0]) == ("server_app.py", "client_app.py")
    names = {"ClientApp": ClientApp}
    exec(server[1], names)
    assert isinstance(names["strategy"], DLoRA)
    exec(client[1], names)
    assert isinstance(names["app"], ClientApp)


@every_page
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf8")):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked), target


def _anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_file_that_is_named_exists(page):
    named = r"(?<![\w/])(?:conf|docs|examples|flwr_decaf|tests)/[\w./-]+\.(?:md|png|py|toml)\b"
    for path in re.findall(named, page.read_text("utf8")):
        assert EXAMPLE in path or (ROOT / path).exists(), path


@every_page
def test_every_name_in_the_package_exists(page):
    text = page.read_text("utf8")
    names = set(re.findall(r"\bflwr_decaf(?:\.\w+)+", text))
    for module, imported in re.findall(r"from (flwr_decaf[\w.]*) import ([\w, ]+)", text):
        names |= {f"{module}.{name.strip()}" for name in imported.split(",")}
    for name in names:
        assert EXAMPLE in name or _exists(name), name


def _exists(name):
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(import_module(module), attribute) or bool(import_module(name))
    except ModuleNotFoundError:
        return False


@every_page
def test_every_command_exists(page):
    text = page.read_text("utf8")
    makefile = (ROOT / "Makefile").read_text("utf8")
    for target in re.findall(r"^make ([a-z-]+)", text, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    consoles = "\n".join(re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL))
    in_text = re.findall(r"`flwr-decaf ([a-z]+)", text)
    in_consoles = re.findall(r"^flwr-decaf ([a-z]+)", consoles, flags=re.MULTILINE)
    assert {*in_text, *in_consoles} <= commands


@every_page
def test_every_extra_exists(page):
    extras = set(re.findall(r"flwr-decaf\[(\w+)\]", page.read_text("utf8")))
    assert extras <= set(PYPROJECT["project"]["optional-dependencies"])
