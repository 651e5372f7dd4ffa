from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.figure import Figure

from flwr_decaf.report.runs import varied
from flwr_decaf.report.swept import draw_panel, score_over_setting
from tests.report.conftest import write_run


@pytest.fixture
def ranks(tmp_path):
    return [
        write_run(tmp_path / f"{name}-{rank}-{seed}", name, seed, **{"lora.rank": rank})
        for rank in (2, 16)
        for seed in (0, 1)
        for name in ("decaf", "fedavg")
    ]


def test_each_method_has_a_line_over_the_values(ranks):
    assert varied(ranks) == {"rank": [2] * 4 + [16] * 4}
    axes = score_over_setting(ranks).axes
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == ["2", "16"]
    assert axes[0].get_xlabel() == "rank"
    lines = {c.get_label(): c.lines[0].get_ydata().tolist() for c in axes[0].containers}
    assert lines == {"decaf": pytest.approx([0.75, 0.75]), "fedavg": pytest.approx([0.55, 0.55])}


def test_nothing_is_drawn_unless_exactly_one_setting_varies(ranks, tmp_path):
    assert score_over_setting(ranks[:2]) is None
    others = [
        write_run(tmp_path / name, name, **{"lora.rank": 2, "lora.alpha": 1.0})
        for name in ("decaf", "fedavg")
    ]
    assert score_over_setting([*ranks, *others]) is None


def test_a_setting_that_varies_in_one_strategy_only_splits_it_into_methods(ranks, tmp_path):
    others = [
        write_run(tmp_path / f"alpha-{rank}", "decaf", **{"lora.rank": rank, "lora.alpha": 1.0})
        for rank in (2, 16)
    ]
    axes = score_over_setting([*ranks, *others]).axes
    lines = {c.get_label(): c.lines[0].get_ydata().tolist() for c in axes[0].containers}
    assert lines == {
        "decaf, alpha 16.0": pytest.approx([0.75, 0.75]),
        "decaf, alpha 1.0": pytest.approx([0.7, 0.7]),
        "fedavg": pytest.approx([0.55, 0.55]),
    }


def test_seeds_with_equal_scores_can_be_drawn():
    # (0.1 + 0.1 + 0.1) / 3 is more than 0.1 in floating point
    rows = pd.DataFrame({"method": "decaf", "value": 2, "y": [0.1, 0.1, 0.1]})
    axes = Figure().subplots()
    draw_panel(axes, rows, "y", [2])
    assert axes.containers[0].lines[0].get_ydata().tolist() == pytest.approx([0.1])
