"""Files for repository hosts and package indexes match the project."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]


def read(path):
    return yaml.safe_load((ROOT / path).read_text("utf8"))


def test_the_citation_has_the_version_and_the_papers_of_the_readme():
    citation = read("CITATION.cff")
    assert citation["version"] == PROJECT["version"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]
    papers = {paper["url"] for paper in citation["references"]}
    readme = (ROOT / "README.md").read_text("utf8")
    assert papers == set(
        re.findall(r"https://arxiv\.org/abs/[\d.]+", readme.split("## Results")[0])
    )
    assert all(
        author["family-names"] for one in citation["references"] for author in one["authors"]
    )


def test_the_workflow_runs_targets_of_the_makefile_on_every_supported_python():
    jobs = read(".github/workflows/ci.yml")["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf8"), flags=re.MULTILINE)
    called = {command.split()[1] for command in commands if command.startswith("make ")}
    assert {"setup", "test"} <= called <= set(targets)
    named = {part for command in commands for part in command.split() if part.startswith("tests/")}
    assert all((ROOT / path).exists() for path in named)
    declared = {line.split(" :: ")[-1] for line in PROJECT["classifiers"] if ":: 3." in line}
    assert set(jobs["test"]["strategy"]["matrix"]["python"]) == declared
    assert not re.search(r"secrets\.", (ROOT / ".github/workflows/ci.yml").read_text("utf8"))


def test_the_checks_of_the_workflow_are_those_of_make_check():
    recipe = (ROOT / "Makefile").read_text("utf8").split("\ncheck:")[1].split("\n\n")[0]
    checks = set(re.findall(r"\$\(BIN\)/(.+)", recipe)) - {"python -m pytest $(PARALLEL)"}
    lint = read(".github/workflows/ci.yml")["jobs"]["lint"]["steps"]
    assert checks <= {step.get("run") for step in lint}


def test_the_forms_for_issues_have_a_body():
    for form in ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"):
        if form.name != "config.yml":
            assert {"name", "description", "body"} <= read(form.relative_to(ROOT)).keys()
