from __future__ import annotations

from pathlib import Path

import pytest

from flwr_decaf.config import flatten, parse_config
from flwr_decaf.config.comparison import difference, folder_of, runs_of


def test_single_values_define_one_run():
    runs = runs_of(parse_config({"strategy": "dlora", "seed": 3}))
    assert list(runs) == ["dlora"]
    assert runs["dlora"] == parse_config({"strategy": "dlora", "seed": 3})


def test_strategies_seeds_and_sweeps_multiply():
    config = parse_config(
        {
            "strategy": "decaf, fedavg",
            "seeds": "0, 5",
            "sweep": "lora.rank = 1, 2; topology.name = ring, path",
        }
    )
    runs = runs_of(config)
    assert len(runs) == 2 * 2 * 2 * 2
    assert list(runs)[:3] == [
        "decaf-rank-1-name-ring-s0", "fedavg-rank-1-name-ring-s0", "decaf-rank-1-name-ring-s5"
    ]  # fmt: skip
    last = runs["fedavg-rank-2-name-path-s5"]
    assert (last.lora.rank, last.topology.name, last.seed) == (2, "path", 5)
    assert (last.strategy, last.seeds, last.sweep) == ("fedavg", "", "")


def test_the_difference_of_a_run_reproduces_it():
    config = parse_config({"strategy": "decaf, dlora", "sweep": "data.alpha = 0.1, 1"})
    run = runs_of(config)["dlora-alpha-1.0"]
    chosen = difference(run, config)
    assert chosen == {"strategy": "dlora", "sweep": "", "data.alpha": 1.0}
    assert parse_config(flatten(config) | chosen) == run


@pytest.mark.parametrize(
    ("sweep", "complaint"),
    [
        ("lora.rnk = 1, 2", "sweep must list settings as KEY = VALUE"),
        ("seed = 1, 2", "strategy and seeds take lists themselves"),
        ("lora.rank", "sweep must give lora.rank values; got none"),
        ("lora.rank = 1, two", "lora.rank must be a whole number; got 'two'"),
        ("lora.rank = 1, 0", "lora.rank must be >= 1; got 0"),
    ],
)
def test_an_invalid_sweep_is_refused(sweep, complaint):
    with pytest.raises(ValueError, match=complaint):
        runs_of(parse_config({"sweep": sweep}))


def test_duplicates_run_once():
    config = parse_config(
        {"strategy": "decaf, decaf", "seeds": "1, 1", "sweep": "lora.rank = 2, 2"}
    )
    assert list(runs_of(config)) == ["decaf-rank-2"]


def test_swept_booleans_are_written_as_in_toml():
    runs = runs_of(parse_config({"sweep": "train.freeze-head = true, false"}))
    assert [run.train.freeze_head for run in runs.values()] == [True, False]
    with pytest.raises(ValueError, match="must be true or false; got 'False'"):
        runs_of(parse_config({"sweep": "train.freeze-head = False"}))


@pytest.mark.parametrize("seeds", ["1, x", "-1", "0.5"])
def test_seeds_must_be_whole_numbers(seeds):
    with pytest.raises(ValueError, match="seeds must be integers >= 0"):
        parse_config({"seeds": seeds})


def test_a_single_run_uses_the_folder_itself():
    assert folder_of(Path("runs/x"), "decaf", 1) == Path("runs/x")
    assert folder_of(Path("runs/x"), "decaf", 2) == Path("runs/x/decaf")
