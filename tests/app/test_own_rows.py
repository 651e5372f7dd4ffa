"""Runs whose nodes have their own rows, with the real apps in this process."""

from __future__ import annotations

import html
import re

import pytest
from flwr.app import Context, RecordDict
from PIL import Image

from flwr_decaf.app import client_app, server_app
from flwr_decaf.config import flatten, parse_config
from flwr_decaf.data.own_files import NODE_DATA
from flwr_decaf.report.page import write_report
from flwr_decaf.report.summary import summarize
from flwr_decaf.report.table import run_table
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.resume import record_own_rows
from tests.local_grid import LocalGrid

WORDS = {"sport": "ball game", "art": "paint colour", "food": "bread soup"}
CLASSES = [["art", "sport"], ["art", "food", "sport"], ["food", "sport"]]  # of each node
SIZES = [12, 30, 21]
N = 3


def write_rows(folder, classes=CLASSES, columns=("text", "label")):
    """Write a CSV file for each node, with unequal numbers of rows."""
    paths = []
    for node, (size, names) in enumerate(zip(SIZES, classes, strict=True)):
        rows = [f"{WORDS.get(names[i % len(names)], 'word')} {i},{names[i % len(names)]}"
                for i in range(size)]  # fmt: skip
        paths.append(folder / f"node-{node}.csv")
        paths[-1].write_text("\n".join([",".join(columns), *rows]) + "\n")
    return paths


def settings(folder, base, **changes):
    values = {
        "model.name": base, "data.name": "", "data.max-length": 16, "train.local-steps": 2,
        "num-server-rounds": 2, "evaluate-every": 1, "output-dir": str(folder), "run-name": "run",
        "strategy": "dlora",
    }  # fmt: skip
    return flatten(parse_config(values | {k.replace("_", "-"): v for k, v in changes.items()}))


def run(values, paths, extra=lambda place: {}):
    """Run the real apps on nodes with these files; without a file, a node has no data-path."""

    def configure(place):
        own = {"data-path": str(paths[place]), "label-column": "label"} if paths[place] else {}
        return {"partition-id": place, "num-partitions": len(paths)} | own | extra(place)

    grid = LocalGrid(client_app.app, len(paths), node_config=configure)
    for context in grid.contexts.values():
        context.run_config = values
    server_app.app(grid, Context(0, 0, {}, RecordDict(), values))
    return grid


@pytest.mark.parametrize("strategy", ["dlora", "fedavg", "local-only"])
def test_nodes_train_on_unequal_rows_with_one_order_of_classes(strategy, tmp_path, small_base):
    grid = run(settings(tmp_path, small_base, strategy=strategy), write_rows(tmp_path))
    folder = RunFolder(tmp_path / "run")
    assert folder.run["status"] == "finished"
    assert folder.run["labels"] == ["art", "food", "sport"]
    assert [x["train"] for x in folder.run["own-rows"]] == SIZES
    assert [x["classes"] for x in folder.run["own-rows"]] == CLASSES
    trained = {x["node"]: x["num-examples"] for x in folder.metrics if x["phase"] == "train"}
    assert trained == {0: 10, 1: 27, 2: 18}  # a tenth, rounded up, is the node's own test
    lines = [x for x in folder.metrics if x["phase"] == "evaluate"]
    assert {x["num-examples"] for x in lines} == {2, 3}
    assert all("local-accuracy" in x and "accuracy" not in x for x in lines)
    sent = [str(message.content) for message in grid.sent]
    assert not any(str(tmp_path / "node") in text for text in sent)
    card = next(folder.path.glob("adapters/*/README.md")).read_text()
    assert "| data | each node's own |" in card


def refusal(tmp_path, values, paths, error=ValueError, **options):
    """Return the error of a run that is refused before its first evaluation."""
    with pytest.raises(error) as info:
        run(values, paths, **options)
    folder = RunFolder(tmp_path / "run")
    assert folder.run["status"] == "failed"
    assert not folder.metrics
    assert "\n" not in str(info.value)
    return str(info.value)


def test_columns_of_other_names(tmp_path, small_base):
    named = {"text-column": "body", "label-column": "topic"}
    run(settings(tmp_path, small_base), write_rows(tmp_path, columns=("body", "topic")),
        lambda place: named)  # fmt: skip
    assert RunFolder(tmp_path / "run").run["labels"] == ["art", "food", "sport"]


def test_a_common_test(tmp_path, small_base, monkeypatch):
    (tmp_path / "common.csv").write_text(
        "body,topic\n" + "ball,sport\npaint,art\nsoup,food\n" * 2 + "soup,\n"
    )
    paths = write_rows(tmp_path, columns=("body", "topic"))
    values = settings(tmp_path, small_base, **{"data.name": str(tmp_path / "common.csv")})
    values |= {"data.text-column": "body", "data.label-column": "topic"}
    with pytest.raises(ValueError, match=r"node 0 .*data\.name must be a hub id, or empty"):
        run(values | {"run-name": "refused"}, paths)
    # Where whoever starts the run owns the files, the settings name their columns and any path.
    monkeypatch.setenv(NODE_DATA, f"{tmp_path}/node-{{}}.csv")
    run(values, [None] * N)
    lines = [x for x in RunFolder(tmp_path / "run").metrics if x["phase"] == "evaluate"]
    assert {x["num-examples"] for x in lines} == {6}  # all complete rows of the common file
    assert all({"accuracy", "local-accuracy"} <= x.keys() for x in lines)


def test_image_folders_of_a_network_with_fewer_classes_at_a_node(tmp_path):
    for node, names in enumerate((["cat", "dog"], ["dog"])):
        for name in names:
            (tmp_path / f"node-{node}" / name).mkdir(parents=True)
            for i in range(4):
                Image.new("L", (8, 8), i).save(tmp_path / f"node-{node}" / name / f"{i}.png")
    values = settings(
        tmp_path, "mlp", strategy="dimat, fedavg",
        **{"model.task": "cnn", "model.width": 8, "data.image-size": 8, "num-server-rounds": 1},
    )  # fmt: skip
    run(values, [tmp_path / "node-0", tmp_path / "node-1"])
    for name in ("dimat", "fedavg"):
        folder = RunFolder(tmp_path / "run" / name)
        assert (folder.run["status"], folder.run["labels"]) == ("finished", ["cat", "dog"])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path: path.unlink(), "node 1 cannot use its own rows: data-path must be a folder"),
        (
            lambda path: path.write_text(path.read_text().replace("text,", "body,", 1)),
            r"node 1 cannot use its own rows: data.text-column must name columns of 'node-1.csv'",
        ),
        (lambda path: path.write_text("text,label\na,b\n"), "node 1 .* at least 2 rows"),
    ],
)
def test_rows_that_a_node_cannot_use_are_refused(break_it, message, tmp_path, small_base):
    paths = write_rows(tmp_path)
    break_it(paths[1])
    error = refusal(tmp_path, settings(tmp_path, small_base), paths)
    assert re.match(message, error)
    assert str(tmp_path) not in error


def test_classes_outside_the_settings_are_refused(tmp_path, small_base):
    values = settings(tmp_path, small_base, **{"data.classes": "art, sport"})
    error = refusal(tmp_path, values, write_rows(tmp_path))
    assert "node 1 cannot use its own rows (2 nodes cannot): data.classes must list" in error
    values = settings(tmp_path, small_base, **{"data.classes": "art, sport, food"})
    run(values | {"run-name": "listed"}, write_rows(tmp_path), lambda place: {"label-column": ""})
    folder = RunFolder(tmp_path / "listed")
    assert folder.run["labels"] == ["art", "sport", "food"]
    assert not any(x["classes"] for x in folder.run["own-rows"])


@pytest.mark.parametrize("column", ["patient", "text"])
def test_the_settings_of_a_run_cannot_choose_the_column_that_leaves_a_node(
    column, tmp_path, small_base
):
    paths = write_rows(tmp_path)
    for path in paths:
        lines = path.read_text().splitlines()
        secret = [f"{line},Jane Doe {i}" for i, line in enumerate(lines[1:])]
        path.write_text("\n".join([f"{lines[0]},patient", *secret]) + "\n")
    values = settings(tmp_path, small_base, **{"data.label-column": column})
    without = {"label-column": ""}
    everything = refusal(tmp_path, values, paths, extra=lambda place: without)
    listed = values | {"data.classes": "art, sport", "run-name": "listed"}
    with pytest.raises(ValueError, match="node 0 cannot use its own rows") as error:
        run(listed, paths, lambda place: without)
    everything += str(error.value)
    everything += "".join(file.read_text() for file in tmp_path.glob("*/run.json"))
    assert "Jane" not in everything
    assert "ball game" not in everything


def test_a_node_without_its_own_rows_is_refused(tmp_path, small_base):
    paths = write_rows(tmp_path)
    error = refusal(tmp_path, settings(tmp_path, small_base), [*paths[:2], None])
    assert "missing at node 2" in error


def test_without_any_rows_the_run_is_refused(tmp_path, small_base):
    error = refusal(tmp_path, settings(tmp_path, small_base), [None, None])
    assert error.startswith("data.name must name a data set, unless each node has its own rows")


def test_a_node_without_a_partition_id_is_refused_with_the_command(tmp_path, small_base):
    grid = LocalGrid(client_app.app, 1, node_config=lambda place: {"num-partitions": 1})
    values = settings(tmp_path, small_base)
    with pytest.raises(RuntimeError, match=r"partition-id must be .*has none; .*--node-config"):
        server_app.app(grid, Context(0, 0, {}, RecordDict(), values))


def test_a_resumed_run_must_find_the_same_rows(tmp_path, small_base):
    folder = RunFolder.create(tmp_path / "run", {})
    rows = [{"train": 3, "test": 0, "skipped": 0, "classes": ("a", "b")}]
    record_own_rows(folder, rows)
    record_own_rows(folder, rows)
    with pytest.raises(ValueError, match="those with which .* at node 0; restore"):
        record_own_rows(folder, [{**rows[0], "train": 4}])


def test_tables_and_the_report_show_the_nodes_own_tests(tmp_path, small_base):
    values = settings(tmp_path, small_base, strategy="decaf, fedavg")
    run(values, write_rows(tmp_path))
    folders = [RunFolder(tmp_path / "run" / name) for name in ("decaf", "fedavg")]
    headings = [str(column.header) for column in run_table(folders[0]).columns]
    assert headings[1:3] == ["local test\nbefore", "\nafter"]
    summary = summarize(folders)
    last = [x["local-accuracy"] for x in folders[0].metrics if x.get("round") == 2
            and x["phase"] == "evaluate"]  # fmt: skip
    assert summary.loc["decaf", "local-accuracy"] == pytest.approx(sum(last) / N)
    assert summary.loc["decaf", "worst"] == min(last)
    page = write_report(folders, tmp_path / "report").read_text()
    assert "each node's own test set" in html.unescape(page)
    assert "--node-data" in page
    assert "local-accuracy" in (tmp_path / "report" / "summary.csv").read_text()
