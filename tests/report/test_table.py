from __future__ import annotations

import pytest
from rich.console import Console

from flwr_decaf.report.table import run_table
from flwr_decaf.runs.folder import RunFolder


def text_of(folder):
    console = Console(width=120)
    with console.capture() as capture:
        console.print(run_table(folder))
    return capture.get()


def cells(text, name):
    line = next(line for line in text.splitlines() if line.strip("│ ").startswith(name))
    return [cell.strip() for cell in line.strip("│").split("│")]


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder.create(
        tmp_path / "my-run", {"strategy": "decaf", "topology.name": "ring", "seed": 0}
    )
    for node, (before, after, local) in enumerate([(0.1, 0.5, 0.8), (0.1, 0.3, None)]):
        for when, accuracy in ((0, before), (4, after)):
            line = {"node": node, "round": when, "phase": "evaluate", "accuracy": accuracy}
            if local:
                line["local-accuracy"] = local * accuracy
            folder.append([line])
        folder.append([{"node": node, "round": 1, "phase": "train", "bytes-sent": 2_000_000}])
        folder.append([{"node": node, "round": 2, "phase": "train", "bytes-sent": 1_000_000}])
    return folder


def test_nodes_before_and_after_training_then_mean_worst_and_std(folder):
    text = text_of(folder)
    assert "decaf · ring · accuracy after round 4" in text
    assert cells(text, "0") == ["0", "0.100", "0.500", "0.080", "0.400", "1.500"]
    assert cells(text, "1") == ["1", "0.100", "0.300", "", "", "1.500"]
    assert cells(text, "mean")[1:3] == ["0.100", "0.400"]
    assert cells(text, "worst")[2] == "0.300"
    assert cells(text, "std")[2] == "0.100"


def test_posts_of_a_round_are_named_for_several_mixes(folder):
    assert "posts per round" not in text_of(folder)
    settings = {**folder.run["settings"], "mixing-steps": "period"}
    folder.update(settings=settings, network={"nodes": 2, "posts-per-round": 4.96})
    assert "decaf · ring · 5.0 posts per round · accuracy after round 4" in text_of(folder)
    folder.update(network={"nodes": 2})  # FedAvg ignores the setting
    assert "posts per round" not in text_of(folder)


def test_without_local_test_sets_there_are_no_columns_for_them(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {"strategy": "decaf", "topology.name": "ring"})
    for when, accuracy in ((0, 0.1), (4, 0.5)):
        folder.append([{"node": 0, "round": when, "phase": "evaluate", "accuracy": accuracy}])
    text = text_of(folder)
    assert "local test" not in text
    assert cells(text, "0") == ["0", "0.100", "0.500", ""]


def test_a_run_that_was_only_evaluated_before_training(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {"strategy": "decaf", "topology.name": "ring"})
    folder.append([{"node": 0, "round": 0, "phase": "evaluate", "accuracy": 0.1}])
    folder.append([{"node": 0, "round": 1, "phase": "train", "bytes-sent": 2_000_000}])
    text = text_of(folder)
    assert "accuracy before training (not evaluated" in " ".join(text.split())
    assert "after" not in text
    assert cells(text, "0") == ["0", "0.100", "2.000"]


def test_a_run_that_has_not_been_evaluated(tmp_path):
    folder = RunFolder.create(tmp_path / "new", {"strategy": "decaf"})
    with pytest.raises(ValueError, match="FOLDERS must contain an evaluated run"):
        run_table(folder)
