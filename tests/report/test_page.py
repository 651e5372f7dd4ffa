from __future__ import annotations

import base64
import csv
import re
from pathlib import Path

import pytest

from flwr_decaf.report.page import write_report
from flwr_decaf.runs.folder import RunFolder
from tests.report.conftest import write_comparison, write_run


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page on two strategies with two seeds each, and the files that were read for it."""
    folder = tmp_path_factory.mktemp("comparison")
    runs = write_comparison(folder)
    read, real = [], Path.read_text

    def read_text(path, *arguments, **options):
        read.append(path)
        return real(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_text", read_text)
        return write_report(runs, folder / "report"), runs, read


@pytest.fixture
def page(written):
    return written[0]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The page on a run that was stopped after round 1, in which a node failed."""
    folder = tmp_path_factory.mktemp("interrupted")
    settings = {"data.name": "<script>alert(1)</script>"}
    run = write_run(folder / "half", "decaf", rounds=1, **settings)
    run.note_failure(1, 1, "<b>out of memory</b>")
    return write_report([run], folder / "report").read_text("utf8")


def test_the_page_is_self_contained_and_complete(page):
    html = page.read_text("utf8")
    assert not re.search(r'(?:src|href)="(?!data:)', html)  # nothing is loaded from elsewhere
    assert "<script" not in html
    for text in ("4 runs, started", "0.750 ± 0.071", "flwr-decaf run settings.toml --nodes 2"):
        assert text in html
    assert "transformers 5" in html
    assert html.count("data:image/svg+xml;base64,") == 8
    assert "running" not in html


def test_the_page_says_what_was_run_and_shows_every_node(page):
    html = page.read_text("utf8")
    for row in (
        ("strategy", '<td class="text">decaf, fedavg</td>'),
        ("seed", '<td class="text">0, 1</td>'),
        ("lora.rank", '<td class="text">8</td>'),  # the default
    ):
        assert "".join([f"<td>{row[0]}</td>", row[1]]) in html
    assert html.count("<summary>decaf-s") == html.count("<summary>fedavg-s") == 2
    assert "<td>0</td><td>0.100</td><td>0.600</td>" in html  # node 0 of DeCAF, before and after
    # 0.7 - 0.5 and 0.8 - 0.6: the same on both seeds.
    cells = ["decaf", "fedavg", "2", "+0.200 [+0.200, +0.200]", "", "+0.100 [+0.100, +0.100]", ""]
    assert "".join(f"<td>{cell}</td>" for cell in cells) in html
    table = re.search(r'download="summary.csv" href="data:text/csv;base64,([^"]+)"', html)[1]
    saved = (page.parent / "summary.csv").read_bytes()
    assert base64.b64decode(table) == saved


def test_tables_and_plots_are_written_as_files(page):
    with (page.parent / "summary.csv").open() as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    assert float(rows["fedavg"]["accuracy"]) == pytest.approx(0.55)
    markdown = (page.parent / "summary.md").read_text().splitlines()
    assert markdown[0].startswith("| method | seeds | accuracy |")
    assert markdown[2].startswith("| decaf | 2 | 0.750 ± 0.071 |")
    plots = sorted(path.name for path in (page.parent / "plots").iterdir())
    assert len(plots) == 16
    assert "over-rounds.png" in plots


def test_an_unfinished_run_is_marked(interrupted):
    assert "half: interrupted; the figures below cover only the rounds that it" in interrupted


def test_values_are_escaped_in_the_page(interrupted):
    assert "<script" not in interrupted
    assert "&lt;script&gt;alert(1)" in interrupted


def test_a_run_without_an_evaluation_is_left_out(tmp_path):
    good = write_run(tmp_path / "a", "decaf")
    failed = RunFolder.create(tmp_path / "b", {**good.run["settings"], "model.name": "/no"})
    failed.finish("failed", error="no model")
    html = write_report([failed, good], tmp_path / "report").read_text("utf8")
    assert "1 run, started" in html
    assert "/no" not in html


def test_missing_nodes_are_listed_and_their_causes_escaped(page, interrupted):
    assert "Missing nodes" not in page.read_text("utf8")
    assert "<td>1</td><td>1</td><td>&lt;b&gt;out of memory&lt;/b&gt;</td>" in interrupted


def test_each_file_of_a_run_is_read_once(written):
    _, runs, read = written
    of_runs = sorted(path for path in read if path.parent.parent == runs[0].path.parent)
    names = ("run.json", "metrics.jsonl")
    assert of_runs == sorted(run.path / name for run in runs for name in names)


def test_a_report_of_live_folders_shows_what_they_have_by_now(tmp_path):
    folder = write_run(tmp_path / "decaf", "decaf", rounds=1)
    first = write_report([folder], tmp_path / "report").read_text("utf8")
    folder.append([{"round": 2, "node": n, "phase": "evaluate", "accuracy": 0.9} for n in (0, 1)])
    again = write_report([folder], tmp_path / "report").read_text("utf8")
    assert "<td>0.900</td>" in again
    assert "<td>0.900</td>" not in first


def test_text_in_plots_is_text(page):
    for plot in ("over-rounds", "by-node", "graph"):
        assert "<text" in (page.parent / "plots" / f"{plot}.svg").read_text("utf8")
