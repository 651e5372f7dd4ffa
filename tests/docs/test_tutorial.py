"""The notebook of the tutorial runs, and its outputs are those of a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "docs/tutorial.ipynb"
CODE = [cell for cell in json.loads(FILE.read_text("utf8"))["cells"] if cell["cell_type"] == "code"]


def test_all_cells_were_run_in_order():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))


def test_the_outputs_are_small_and_without_errors_and_paths_of_a_machine():
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    texts = [output.get("text") or output["data"].get("text/plain", "") for output in outputs]
    assert not re.search(r"(?<![\w.])/\w+/\w+|[A-Z]:\\\\", "\n".join(map("".join, texts)))
    assert FILE.stat().st_size < 200_000


@pytest.mark.engine
@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="make docs installs the extra docs")
    client = pytest.importorskip("nbclient", reason="make docs installs the extra docs")
    notebook = nbformat.read(FILE, as_version=4)
    folder = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=1800, resources=folder).execute()
    values = [output for cell in notebook.cells[-3:] for output in cell.get("outputs", [])]
    best = [
        next(iter(json.loads(value["data"]["text/plain"].replace("'", '"')))) for value in values
    ]
    assert best == ["sci.space", "rec.sport.hockey"]
