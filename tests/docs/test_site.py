"""The site has every page of docs/, and builds without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from flwr_decaf.registries import STRATEGIES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def read(page):
    return (DOCS / page).read_text("utf8")


def test_every_page_is_in_the_contents_once():
    trees = re.findall(r"```\{toctree\}\n(.+?)```", read("index.md"), flags=re.DOTALL)
    listed = [line for tree in trees for line in tree.splitlines() if re.match(r"[\w/-]+$", line)]
    files = [file.relative_to(DOCS) for kind in ("md", "ipynb") for file in DOCS.rglob(f"*.{kind}")]
    pages = {str(file.with_suffix("")) for file in files if file.parts[0] != "runs"}
    assert sorted(listed) == sorted(pages - {"index"})


@pytest.mark.parametrize("module", ["strategies", "clients", "matching"])
def test_the_reference_has_every_public_name(module):
    described = set(re.findall(r":: (\w+)", read(f"api/{module}.md")))
    public = import_module(f"flwr_decaf.{module}").__all__
    assert set(public) - {"STRATEGIES"} <= described


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_page_on_methods_explains_every_strategy_with_its_source(name):
    module, _, attribute = STRATEGIES[name].partition(":")
    strategy = getattr(import_module(module), attribute)
    page = read("methods.md")
    assert f"`{attribute}`" in page
    assert set(re.findall(r"arXiv ([\d.]+\d)", strategy.__doc__)) <= set(
        re.findall(r"arxiv\.org/abs/([\d.]+\d)", page)
    )


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="make docs installs the extra docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", DOCS, tmp_path]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert '<svg class="formula"' in (tmp_path / "methods.html").read_text("utf8")
    fetched = re.compile(
        r'<(?:script|img|source)[^>]+src="(?:https?:)?//|<link[^>]+css" href="http'
    )
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list(DOCS.glob("*.md")))
    assert not [page.name for page in pages if fetched.search(page.read_text("utf8"))]
