from __future__ import annotations

import pytest

from flwr_decaf.report.timing import seconds_spent, shares_told
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


def test_the_parts_and_what_is_left_are_the_wall_time_of_all_processes(folder):
    parts = seconds_spent([folder]).iloc[0]
    assert dict(parts) == {
        "training": 2.0, "mixing": 0.5, "evaluation": 0.5, "relay, waiting": 20 / 4 - 3
    }  # fmt: skip


def test_processes_that_take_over_when_a_run_is_resumed_are_no_more_at_once(folder):
    before = seconds_spent([folder])
    text = (folder.path / "metrics.jsonl").read_text().splitlines()
    later = [line.replace('"process": ', '"process": 1') if '"round": 2' in line else line
             for line in text]  # fmt: skip
    (folder.path / "metrics.jsonl").write_text("\n".join(later) + "\n")
    assert seconds_spent([folder]).equals(before)


def test_shares_in_a_line(folder):
    told = "time: training 40 % · mixing 10 % · evaluation 10 % · relay, waiting 40 %"
    assert shares_told(folder) == told
    folder.update(**{"start-up-seconds": 14.6})
    assert shares_told(folder) == f"start-up: 15 s; {told}"


def test_runs_that_do_not_tell(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {"strategy": "decaf", "seed": 0})
    folder.append([{"node": 0, "round": 0, "phase": "evaluate", "accuracy": 0.1}])
    assert seconds_spent([folder]) is None
    assert shares_told(folder) == ""
