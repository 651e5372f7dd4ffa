"""Trackers, read back from what they wrote; no test uses a network.

The extras wandb and mlflow are not among the development packages; their tests run where they are
installed.
"""

from __future__ import annotations

import struct

import pytest

from flwr_decaf.config import Config
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.trackers import scalars_of, tracked

TAGS = {"evaluate/accuracy", "accuracy-of-nodes/0", "accuracy-of-nodes/1"}
MEANS = {0: 0.15, 1: 0.3, 2: 0.6}


def lines_of(server_round, *accuracies):
    place = {"phase": "evaluate", "round": server_round}
    return [{**place, "node": n, "accuracy": a, "elapsed": 1} for n, a in enumerate(accuracies)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return the folder of a run that has an evaluation of round 0, and is tracked in two more."""
    for key in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(key, raising=False)
    folder = RunFolder.create(tmp_path / "comparison" / "decaf", {})
    folder.append(lines_of(0, 0.1, 0.2))

    def of(tracker, fails=False):
        config = Config(trackers=tracker, output_dir=str(tmp_path))
        with tracked(folder, config):
            folder.append([{"phase": "missing", "round": 1, "node": 2, "cause": "x"}])
            folder.append(lines_of(1, 0.2, 0.4))
            if fails:
                raise RuntimeError("no node trained")
            folder.append(lines_of(2, 0.5, 0.7))
        return folder.path

    return of


def test_scalars_are_means_of_what_all_nodes_have_and_the_accuracy_of_each():
    lines = [
        {"phase": "train", "round": 3, "node": 0, "loss": 1.0, "scale": 2.0, "note": "x"},
        {"phase": "train", "round": 3, "node": 1, "loss": 3.0},
    ]
    assert scalars_of(lines) == {"train/loss": 2.0}
    average = [{"phase": "average", "round": 3, "accuracy": 0.5}]
    assert scalars_of(average) == {"average/accuracy": 0.5}


def test_a_run_without_trackers_has_no_listeners(run):
    assert {path.name for path in run("").iterdir()} == {"run.json", "metrics.jsonl"}


def test_a_tracker_that_is_not_installed_is_refused(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r'trackers = "wandb" needs the package wandb; .*\[wandb\]'
    ):
        run("wandb")


def test_tensorboard_has_every_round_once_even_after_resuming(run):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = run("tensorboard")
    with tracked(RunFolder(path), Config(trackers="tensorboard")):
        pass  # resumed after the last round
    events = EventAccumulator(str(path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == TAGS
    means = {event.step: event.value for event in events.Scalars("evaluate/accuracy")}
    assert means == pytest.approx(MEANS)
    assert len(events.Scalars("evaluate/accuracy")) == 3


def records_of(path):
    """Read an offline run of Weights & Biases: a file header of 7 bytes, then LevelDB's log format.

    Blocks of 32 KiB have records of CRC, length and kind (whole, first, middle or last part).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = path.glob("wandb/offline-run-*/*.wandb")
    data, at, text = file.read_bytes(), 7, b""
    while at < len(data):
        if 32768 - at % 32768 < 7:  # padding at the end of a block
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        text += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(text)
            text = b""


def test_weights_and_biases_has_settings_and_metrics_without_a_network(run):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    records = list(records_of(run("wandb")))
    rows = [
        {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert {int(row["round"]): float(row["evaluate/accuracy"]) for row in rows} == pytest.approx(
        MEANS
    )
    assert all(row.keys() >= TAGS for row in rows)
    (begun,) = (record.run for record in records if record.HasField("run"))
    assert (begun.project, begun.run_group, begun.display_name) == (
        "flwr-decaf", "comparison", "decaf"
    )  # fmt: skip
    assert any(update.key == "lora.rank" for update in begun.config.update)
    (ended,) = (record.exit for record in records if record.HasField("exit"))
    assert ended.exit_code == 0


def test_weights_and_biases_knows_that_a_run_failed(run, tmp_path):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    with pytest.raises(RuntimeError):
        run("wandb", fails=True)
    records = records_of(tmp_path / "comparison" / "decaf")
    (ended,) = (record.exit for record in records if record.HasField("exit"))
    assert ended.exit_code == 1


@pytest.mark.parametrize("fails", [False, True])
def test_mlflow_has_settings_metrics_and_status_in_a_database(run, tmp_path, fails):
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    from mlflow import MlflowClient

    if fails:
        with pytest.raises(RuntimeError):
            run("mlflow", fails=True)
    else:
        run("mlflow")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("flwr-decaf")
    (there,) = client.search_runs([experiment.experiment_id])
    assert there.info.run_name == "comparison/decaf"
    assert there.info.status == ("FAILED" if fails else "FINISHED")
    assert there.data.params["lora.rank"] == "8"
    assert set(there.data.metrics) == TAGS
    history = client.get_metric_history(there.info.run_id, "evaluate/accuracy")
    expected = {t: x for t, x in MEANS.items() if t < 2 or not fails}
    assert {metric.step: metric.value for metric in history} == pytest.approx(expected)
