from __future__ import annotations

import pytest

from flwr_decaf.report.runs import find_runs, labels_of
from flwr_decaf.report.summary import consensus_distance, over_rounds, read_metrics, summarize
from flwr_decaf.runs.folder import RunFolder
from tests.report.conftest import write_run


def test_the_runs_of_a_comparison_are_found(comparison, tmp_path):
    found = find_runs([tmp_path / "c"])
    assert sorted(run.path for run in found) == sorted(run.path for run in comparison)
    assert [run.path for run in find_runs([found[2].path])] == [found[2].path]
    with pytest.raises(ValueError, match="FOLDERS must be run folders or contain some"):
        find_runs([tmp_path / "nothing"])


def test_labels_name_what_differs_and_nothing_else(comparison, tmp_path):
    assert labels_of(comparison) == ["decaf", "fedavg", "decaf", "fedavg"]
    ranked = [write_run(tmp_path / f"r{r}", "decaf", **{"lora.rank": r}) for r in (1, 2)]
    assert labels_of(ranked) == ["decaf, rank 1", "decaf, rank 2"]
    resumed = write_run(tmp_path / "again", "decaf", **{"resume-from": "x", "checkpoint-every": 2})
    assert labels_of([comparison[0], resumed]) == ["decaf", "decaf"]
    models = [write_run(tmp_path / m, "decaf", **{"model.name": m}) for m in ("a", "b")]
    assert labels_of(models) == ["decaf, model a", "decaf, model b"]
    ranked[1].update(network={"nodes": 5})
    assert labels_of(ranked) == ["decaf, rank 1, nodes 2", "decaf, rank 2, nodes 5"]


def test_metrics_are_aggregated_by_round(comparison):
    rows = over_rounds(read_metrics(comparison))
    last = rows[(rows["run"] == 0) & (rows["round"] == 2)].iloc[0]
    assert last["accuracy"] == pytest.approx(0.7)
    assert last["worst"] == pytest.approx(0.6)
    assert last["node-std"] == pytest.approx(0.1)
    assert last["megabytes"] == pytest.approx(4.0)
    first = rows[(rows["run"] == 0) & (rows["round"] == 0)].iloc[0]
    assert first["megabytes"] == 0


def test_summary_is_the_mean_over_seeds_of_the_last_evaluation(comparison):
    summary = summarize(comparison)
    assert list(summary.index) == ["decaf", "fedavg"]
    decaf = summary.loc["decaf"]
    assert decaf["seeds"] == 2
    assert decaf["accuracy"] == pytest.approx(0.75)
    assert decaf["accuracy-std"] == pytest.approx(0.1 / 2**0.5)
    assert decaf["worst"] == pytest.approx(0.65)
    assert decaf["consensus-distance"] == pytest.approx(6.0)
    assert summary.loc["fedavg"]["megabytes"] == pytest.approx(8.0)


def test_the_minutes_of_a_resumed_run_exclude_the_pause(tmp_path):
    run = write_run(tmp_path / "r", "decaf")
    run.append([{"node": 0, "round": 2, "phase": "train", "elapsed": 120.0}])
    run.update(started="2026-01-01T00:00:00+00:00", ended="2026-01-01T01:00:00+00:00")
    assert summarize([run])["minutes"].item() == pytest.approx(60.0)
    run.update(resumed=[{"after-round": 1}])
    assert summarize([run])["minutes"].item() == pytest.approx(2.0)


def test_consensus_distance_is_the_root_mean_square(tmp_path):
    folder = RunFolder.create(tmp_path / "r", {"strategy": "decaf", "seed": 0})
    for node, distance in enumerate((3.0, 4.0)):
        line = {"phase": "train", "round": 1, "node": node, "distance-to-mean": distance}
        folder.append([line])
    assert consensus_distance(read_metrics([folder]))["distance"].item() == pytest.approx(12.5**0.5)


def test_unfinished_runs_count_with_their_completed_rounds(comparison, tmp_path):
    half = write_run(tmp_path / "half", "decaf", rounds=1)
    empty = RunFolder.create(tmp_path / "empty", {**half.run["settings"], "lora.rank": 3})
    summary = summarize([half, empty])
    assert summary["accuracy"].item() == pytest.approx(0.4)
    with pytest.raises(ValueError, match="FOLDERS must contain an evaluated run"):
        summarize([empty])
