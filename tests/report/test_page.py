from __future__ import annotations

import csv
import re
import tomllib

import pytest

from flwr_decaf.config import flatten, parse_config
from flwr_decaf.config.comparison import runs_of
from flwr_decaf.config.files import flat
from flwr_decaf.report.page import commands, settings_to_reproduce, write_report
from flwr_decaf.runs.folder import RunFolder
from tests.report.conftest import write_run


def test_the_page_is_self_contained_and_complete(comparison, tmp_path):
    page = write_report(comparison, tmp_path / "report")
    html = page.read_text("utf8")
    assert not re.search(r'(?:src|href)="(?!data:)', html)  # nothing is loaded from elsewhere
    assert "<script" not in html
    for text in ("4 runs, started", "0.750 ± 0.071", "flwr-decaf run settings.toml --nodes 2"):
        assert text in html
    assert "transformers 5" in html
    assert html.count("data:image/svg+xml;base64,") == 6
    assert "running" not in html


def test_tables_and_plots_are_written_as_files(comparison, tmp_path):
    write_report(comparison, tmp_path / "report")
    with (tmp_path / "report" / "summary.csv").open() as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    assert float(rows["fedavg"]["accuracy"]) == pytest.approx(0.55)
    markdown = (tmp_path / "report" / "summary.md").read_text().splitlines()
    assert markdown[0].startswith("| method | seeds | accuracy |")
    assert markdown[2].startswith("| decaf | 2 | 0.750 ± 0.071 |")
    plots = sorted(path.name for path in (tmp_path / "report" / "plots").iterdir())
    assert len(plots) == 12
    assert "over-rounds.png" in plots


def test_an_unfinished_run_is_marked(tmp_path):
    half = write_run(tmp_path / "half", "decaf", rounds=1)
    html = write_report([half], tmp_path / "report").read_text("utf8")
    assert "half: interrupted; the figures below cover the rounds it completed" in html


def test_values_are_escaped_in_the_page(tmp_path):
    run = write_run(tmp_path / "r", "decaf", **{"data.name": "<script>alert(1)</script>"})
    assert "<script" not in write_report([run], tmp_path / "report").read_text("utf8")


def test_the_settings_to_reproduce_request_the_same_runs(tmp_path):
    config = parse_config(
        {
            "strategy": "decaf, fedavg",
            "seeds": "0, 1",
            "sweep": "lora.rank = 1, 2",
            "data.alpha": 9.0,
        }
    )
    folders = []
    for name, run in runs_of(config).items():
        settings = flatten(run)
        folders.append(
            write_run(tmp_path / name, settings.pop("strategy"), settings.pop("seed"), **settings)
        )
    again = parse_config(flat(tomllib.loads(settings_to_reproduce(folders))))
    assert runs_of(again) == runs_of(config)


def test_unrelated_runs_are_reproduced_one_by_one(tmp_path):
    first = write_run(tmp_path / "a", "decaf", **{"lora.rank": 2})
    second = write_run(tmp_path / "b", "fedavg", **{"data.alpha": 3.0})
    assert [(n, "strategy" in toml) for n, toml in commands([first, second])] == [(2, True)] * 2
    assert "sweep" not in commands([first, second])[0][1]
    assert len(commands([first])) == 1


def test_a_run_without_an_evaluation_is_left_out(tmp_path):
    good = write_run(tmp_path / "a", "decaf")
    failed = RunFolder.create(tmp_path / "b", {**good.run["settings"], "model.name": "/no"})
    failed.finish("failed", error="no model")
    html = write_report([failed, good], tmp_path / "report").read_text("utf8")
    assert "1 run, started" in html
    assert "/no" not in html


def test_missing_nodes_are_listed_and_their_causes_escaped(tmp_path):
    run = write_run(tmp_path / "r", "decaf")
    assert "Missing nodes" not in write_report([run], tmp_path / "report").read_text("utf8")
    run.note_failure(2, 1, "<b>out of memory</b>")
    html = write_report([run], tmp_path / "report").read_text("utf8")
    assert "<td>2</td><td>1</td><td>&lt;b&gt;out of memory&lt;/b&gt;</td>" in html
