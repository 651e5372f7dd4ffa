from __future__ import annotations

import json

import pytest
from flwr.app import MetricRecord, RecordDict

from flwr_decaf.runs.folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", {"strategy": "decaf"})


def test_run_json_is_complete_from_the_start(folder):
    run = json.loads((folder.path / "run.json").read_text())
    assert run["status"] == "running"
    assert run["settings"] == {"strategy": "decaf"}
    assert run["environment"]["versions"]["flwr"].startswith("1.")
    assert "started" in run


def test_a_run_is_never_overwritten(folder):
    with pytest.raises(FileExistsError, match="run-name must name a new run"):
        RunFolder.create(folder.path, {})


def test_values_are_added_and_the_end_is_recorded(folder):
    folder.update(network={"nodes": 3})
    folder.finish("failed", error="a cause")
    run = folder.run
    assert (run["status"], run["error"], run["network"]["nodes"]) == ("failed", "a cause", 3)
    assert run["ended"] >= run["started"]


def test_an_incomplete_last_line_is_ignored(folder):
    folder.append([{"round": 1}, {"round": 2}])
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "acc')
    assert folder.metrics == [{"round": 1}, {"round": 2}]


def test_a_missing_folder_reads_as_empty(tmp_path):
    assert RunFolder(tmp_path / "none").run == {}
    assert RunFolder(tmp_path / "none").metrics == []


def reply(node, accuracy, num_examples):
    metrics = {"partition-id": node, "server-round": 2, "accuracy": accuracy}
    return RecordDict({"metrics": MetricRecord({**metrics, "num-examples": num_examples})})


def test_the_recorder_writes_every_node_and_returns_the_weighted_mean(folder):
    record = folder.recorder("evaluate")
    averaged = record([reply(1, 0.5, 30), reply(0, 0.1, 10)], "num-examples")
    assert dict(averaged) == pytest.approx({"accuracy": 0.4})
    lines = folder.metrics
    assert [line["node"] for line in lines] == [0, 1]
    assert lines[1].pop("elapsed") >= 0
    expected = {"node": 1, "round": 2, "phase": "evaluate", "accuracy": 0.5, "num-examples": 30}
    assert lines[1] == expected


def test_an_adapter_appears_only_when_it_is_complete(folder):
    def write(path):
        (path / "first").write_text("1")
        assert not (folder.path / "adapters" / "node-0").exists()

    folder.save("node-0", write)
    assert (folder.path / "adapters" / "node-0" / "first").read_text() == "1"

    def fail(path):
        (path / "half").write_text("1")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        folder.save("node-1", fail)
    assert [p.name for p in (folder.path / "adapters").iterdir()] == ["node-0"]
    assert not list(folder.path.glob(".saving-*"))


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl"])
@pytest.mark.parametrize("text", ['{"status": \n', "[1, 2]\n"])
def test_a_damaged_file_is_named(tmp_path, name, text):
    folder = RunFolder.create(tmp_path / "run", {})
    (folder.path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{folder.path / name} must contain JSON") as info:
        _ = folder.run, folder.metrics
    assert "\n" not in str(info.value)
