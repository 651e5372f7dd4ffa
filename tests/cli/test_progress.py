from __future__ import annotations

import io

import pytest
from rich.console import Console

from flwr_decaf.cli.progress import plain_lines, read_progress, shown_progress
from flwr_decaf.runs.folder import RunFolder

ROUNDS = {"decaf": 2, "dlora": 2}


@pytest.fixture
def paths(tmp_path):
    return {name: tmp_path / name for name in ROUNDS}


def train(folder, when):
    folder.append([{"phase": "train", "round": when, "node": node} for node in range(2)])


def evaluate(folder, when, accuracies):
    lines = enumerate(accuracies)
    folder.append(
        [{"phase": "evaluate", "round": when, "node": n, "accuracy": a} for n, a in lines]
    )


def test_progress_before_the_first_run(paths):
    now = read_progress(paths, ROUNDS)
    assert str(now) == "run 1 of 2, decaf: starting Flower, its actors and the ServerApp"
    assert now.share == 0


def test_progress_before_the_first_round_says_what_is_going_on(paths):
    folder = RunFolder.create(paths["decaf"], {})
    now = read_progress(paths, ROUNDS)
    assert str(now) == "run 1 of 2, decaf: loading the model on the nodes, initial evaluation"
    evaluate(folder, 0, [0.1, 0.3])
    assert str(read_progress(paths, ROUNDS)) == (
        "run 1 of 2, decaf: training round 1, mean accuracy 0.200 after round 0"
    )
    train(folder, 1)
    assert str(read_progress(paths, ROUNDS)).startswith("run 1 of 2, decaf: round 1 of 2")


def test_progress_contains_the_current_run_its_round_and_its_last_accuracy(paths):
    first = RunFolder.create(paths["decaf"], {})
    train(first, 1)
    evaluate(first, 1, [0.2, 0.4])
    assert str(read_progress(paths, ROUNDS)) == (
        "run 1 of 2, decaf: round 1 of 2, mean accuracy 0.300 after round 1"
    )
    train(first, 2)
    second = RunFolder.create(paths["dlora"], {})
    train(second, 1)
    now = read_progress(paths, ROUNDS)
    assert (now.name, now.number, now.server_round, now.share) == ("dlora", 2, 1, 0.75)


def test_a_log_file_gets_plain_lines_without_repetition(paths):
    file = io.StringIO()
    with shown_progress(Console(file=file, width=200), paths, ROUNDS) as look:
        look()
        look()
        train(RunFolder.create(paths["decaf"], {}), 1)
        look()
    lines = file.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0] == "[  0.0 min] Loading and checking the model and the data while Flower starts"
    assert lines[1].endswith("decaf: starting Flower, its actors and the ServerApp")
    assert "run 1 of 2, decaf: round 1 of 2; 0 min left" in lines[2]
    assert "\x1b" not in file.getvalue()


def test_the_estimate_of_a_resumed_run_ignores_earlier_rounds(paths, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    first = RunFolder(paths["decaf"])
    paths["decaf"].mkdir()
    first.update(status="running")
    train(first, 1)
    file = io.StringIO()
    look = plain_lines(Console(file=file, width=200), {"decaf": paths["decaf"]}, {"decaf": 4})
    look()
    train(first, 2)
    now[0] = 600.0
    look()
    lines = file.getvalue().splitlines()
    assert lines[1].endswith("round 1 of 4")
    assert lines[2].endswith("round 2 of 4; 20 min left")  # a quarter took ten minutes


def test_a_terminal_gets_a_live_bar(paths):
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=True)
    with shown_progress(console, paths, ROUNDS) as look:
        train(RunFolder.create(paths["decaf"], {}), 1)
        look()
    assert "run 1 of 2, decaf: round 1 of 2" in file.getvalue()
    assert "\x1b[" in file.getvalue()
