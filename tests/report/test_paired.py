"""Paired differences, compared with values computed by hand."""

from __future__ import annotations

import math

import pytest

from flwr_decaf.config import Config, flatten
from flwr_decaf.report.paired import paired_differences
from flwr_decaf.runs.folder import RunFolder

FEDAVG = {0: 0.5, 1: 0.6, 2: 0.4}


def write(path, strategy, seed, scores, **settings):
    named = {"strategy": strategy, "seed": seed}
    folder = RunFolder.create(path, flatten(Config()) | named | settings)
    folder.append(
        [
            {"round": 1, "node": node, "phase": "evaluate", "accuracy": accuracy}
            for node, accuracy in enumerate(scores)
        ]
    )
    return folder


@pytest.fixture
def runs(tmp_path):
    folders = [
        write(tmp_path / f"d{seed}", "dlora", seed, [accuracy + 0.1 * (seed + 1)] * 2)
        for seed, accuracy in FEDAVG.items()
    ]
    folders += [
        write(tmp_path / f"f{seed}", "fedavg", seed, [accuracy] * 2)
        for seed, accuracy in FEDAVG.items()
    ]
    folders.append(write(tmp_path / "l", "local-only", 0, [0.2, 0.4]))
    return folders


def test_the_interval_and_p_are_those_of_a_paired_t_test(runs):
    table = paired_differences(runs)
    assert list(table.index) == ["dlora"]  # local-only has a single seed
    row = table.loc["dlora"]
    assert (row["reference"], row["seeds"]) == ("fedavg", 3)
    # Differences 0.1, 0.2, 0.3: standard error 0.1 / sqrt 3, and the quantile of t with 2 degrees.
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert row["difference"] == pytest.approx(0.2)
    assert (row["low"], row["high"]) == pytest.approx((0.2 - half, 0.2 + half), abs=1e-6)
    t = 0.2 * math.sqrt(3) / 0.1
    assert row["p"] == pytest.approx(1 - t / math.sqrt(t * t + 2))  # closed form for 2 degrees
    assert row["worst-difference"] == pytest.approx(0.2)


def test_the_worst_node_is_compared_within_each_seed(tmp_path):
    folders = [
        write(tmp_path / f"{name}{seed}", name, seed, scores)
        for name, per_seed in {
            "decaf": [(0.5, 0.1), (0.7, 0.3)],
            "dlora": [(0.2, 0.4), (0.3, 0.6)],
        }.items()
        for seed, scores in enumerate(per_seed)
    ]
    row = paired_differences(folders).loc["dlora"]  # the first method is the reference
    assert row["reference"] == "decaf"
    assert row["difference"] == pytest.approx((0.0 - 0.05) / 2)
    assert row["worst-difference"] == pytest.approx((0.1 + 0.0) / 2)


def test_equal_differences_have_no_p(tmp_path):
    folders = [
        write(tmp_path / f"{name}{seed}", name, seed, [base, base])
        for name, base in (("decaf", 0.4), ("fedavg", 0.5))
        for seed in (0, 1)
    ]
    row = paired_differences(folders).loc["decaf"]
    assert (row["low"], row["high"]) == pytest.approx((-0.1, -0.1))
    assert math.isnan(row["p"])


def test_methods_are_compared_on_the_same_data_alone(tmp_path):
    scores = {("decaf", 0.1): 0.3, ("fedavg", 0.1): 0.5, ("decaf", 1.0): 0.8, ("fedavg", 1.0): 0.9}
    folders = [
        write(tmp_path / f"{name}-{alpha}-{seed}", name, seed, [base] * 2, **{"data.alpha": alpha})
        for (name, alpha), base in scores.items()
        for seed in (0, 1)
    ]
    table = paired_differences(folders)
    assert dict(table["reference"]) == {
        f"decaf, alpha {alpha}": f"fedavg, alpha {alpha}" for alpha in (0.1, 1.0)
    }
    assert list(table["difference"]) == pytest.approx([-0.2, -0.1])


def test_a_single_run_has_nothing_to_compare(runs):
    assert paired_differences(runs[:1]).empty
