from __future__ import annotations

import pytest

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.trackers import event_writer


def test_events_contain_the_means_and_the_accuracy_of_every_node(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {})
    folder.listeners.append(event_writer(folder.path / "tensorboard"))
    for t, accuracies in ((1, (0.2, 0.4)), (2, (0.5, 0.7))):
        lines = enumerate(accuracies)
        folder.append(
            [
                {"phase": "evaluate", "round": t, "node": n, "accuracy": a, "elapsed": 1}
                for n, a in lines
            ]
        )
    events = EventAccumulator(str(folder.path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {
        "evaluate/accuracy", "accuracy-of-nodes/0", "accuracy-of-nodes/1"
    }  # fmt: skip
    means = [(event.step, event.value) for event in events.Scalars("evaluate/accuracy")]
    assert means == [(1, pytest.approx(0.3)), (2, pytest.approx(0.6))]
    assert len(folder.metrics) == 4


def test_rounds_repeated_after_resuming_count_once(tmp_path):
    for done, rounds, value in ((-1, (0, 1, 2), 0.25), (1, (2, 3), 0.75)):
        write = event_writer(tmp_path, done)
        for t in rounds:
            write([{"phase": "evaluate", "round": t, "node": 0, "accuracy": value}])
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("evaluate/accuracy")
    assert [(event.step, event.value) for event in events] == [
        (0, 0.25), (1, 0.25), (2, 0.75), (3, 0.75)
    ]  # fmt: skip
