from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from flwr_decaf.report.timing import describe_frozen_layers, describe_shares, seconds_spent
from flwr_decaf.runs.folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    """Two nodes in two processes: 10 s for two rounds, of which 12 s of work."""
    folder = RunFolder.create(tmp_path / "run", {"strategy": "decaf", "seed": 0})
    lines = [{"node": 0, "round": 0, "phase": "evaluate", "elapsed": 4.0, "accuracy": 0.1}]
    for when, elapsed in ((1, 8.0), (2, 14.0)):
        for node in (0, 1):
            line = {"node": node, "round": when, "elapsed": elapsed, "process": node}
            lines.append({**line, "phase": "train", "train-seconds": 2.0, "mixing-seconds": 0.5})
    lines.append({**line, "phase": "evaluate", "evaluate-seconds": 2.0, "accuracy": 0.2})
    folder.append(lines)
    return folder


def test_the_parts_and_the_rest_add_up_to_the_wall_time_of_all_processes(folder):
    parts = seconds_spent([folder]).iloc[0]
    assert dict(parts) == {
        "training": 2.0, "mixing": 0.5, "evaluation": 0.5, "relay, waiting": 20 / 4 - 3
    }  # fmt: skip


def test_the_processes_of_a_resumed_run_do_not_count_as_concurrent(folder):
    before = seconds_spent([folder])
    text = (folder.path / "metrics.jsonl").read_text().splitlines()
    later = [line.replace('"process": ', '"process": 1') if '"round": 2' in line else line
             for line in text]  # fmt: skip
    (folder.path / "metrics.jsonl").write_text("\n".join(later) + "\n")
    assert seconds_spent([folder]).equals(before)


def test_shares_are_described_in_one_line(folder):
    line = "time: training 40 % · mixing 10 % · evaluation 10 % · relay, waiting 40 %"
    assert describe_shares(folder) == line
    folder.update(**{"start-up-seconds": 14.6})
    assert describe_shares(folder) == f"start-up: 15 s; {line}"


def test_runs_without_recorded_times(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {"strategy": "decaf", "seed": 0})
    folder.append([{"node": 0, "round": 0, "phase": "evaluate", "accuracy": 0.1}])
    assert seconds_spent([folder]) is None
    assert describe_shares(folder) == ""


def test_frozen_layers_are_described_with_the_share_of_rows_that_were_read(folder):
    assert describe_frozen_layers(folder) == ""
    folder.update(**{"frozen-layers": "computed once: 3 of the 6 of BertModel"})
    line = "frozen layers computed once: 3 of the 6 of BertModel"
    assert describe_frozen_layers(folder) == f"{line}; not used"
    counts = {"hidden-states-read": 30.0, "hidden-states-computed": 10.0}
    folder.append([{"node": 0, "round": 3, "phase": "train", **counts}])
    assert describe_frozen_layers(folder) == f"{line}; 75 % of the rows read"


def test_the_line_says_why_a_node_keeps_nothing(folder):
    folder.update(**{"frozen-layers": "computed once: 3 of the 6 of BertModel"})
    content = RecordDict(
        {
            "metrics": MetricRecord({"partition-id": 0, "server-round": 1, "num-examples": 2}),
            "decaf.not-kept": ConfigRecord({"cause": "IndexError in Bert\x1bModel"}),
        }
    )
    folder.recorder("train")([content, content], "num-examples")
    assert describe_frozen_layers(folder) == (
        "frozen layers computed once: 3 of the 6 of BertModel; not kept: IndexError in BertModel "
        "(see log.txt)"
    )
