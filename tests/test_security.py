"""Content of files and messages is data: it is not executed, and does not determine paths."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

import flwr_decaf
from flwr_decaf.config import parse_config
from flwr_decaf.config.comparison import folder_of, runs_of
from flwr_decaf.config.files import flat, to_toml

SOURCES = sorted(Path(flwr_decaf.__file__).parent.rglob("*.py"))
UNPICKLERS = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch.load"}
RUNNERS = {"eval", "exec", "compile", "__import__"}


def names_used(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("file", SOURCES, ids=lambda path: path.stem)
def test_nothing_is_unpickled_or_executed(file):
    assert not set(names_used(ast.parse(file.read_text("utf8")))) & (UNPICKLERS | RUNNERS)


@pytest.mark.parametrize("name", ["../out", "a/b", "..", "/etc/x"])
def test_a_run_name_cannot_leave_the_output_folder(tmp_path, name):
    with pytest.raises(ValueError, match="run-name must be a plain name"):
        parse_config({"output-dir": str(tmp_path), "run-name": name})


def test_swept_values_cannot_leave_the_run_folder(tmp_path):
    sweep = "data.name = ../../etc/a.csv, ../../etc_a.csv, /abs/b.csv"
    runs = runs_of(parse_config({"sweep": sweep}))
    assert len(runs) == 3
    for name in runs:
        assert folder_of(tmp_path, name, len(runs)).resolve().parent == tmp_path


@pytest.mark.parametrize("value", ['"\n[model]\nname = "x"', "a = 1", "\\", "\u2028", "'" * 3])
def test_settings_written_as_toml_stay_what_they_were(value):
    text = to_toml({"data.name": value, "lora.rank": 3})
    assert flat(tomllib.loads(text)) == {"data.name": value, "lora.rank": 3}
