from __future__ import annotations

import tomllib

from flwr_decaf.config import flatten, parse_config
from flwr_decaf.config.comparison import runs_of
from flwr_decaf.config.files import flat
from flwr_decaf.report.settings import commands, main_settings, settings_of, settings_to_reproduce
from tests.report.conftest import write_run


def test_settings_have_all_their_values_and_defaults(tmp_path):
    runs = [write_run(tmp_path / str(rank), "decaf", **{"lora.rank": rank}) for rank in (2, 4)]
    assert settings_of(runs)["lora.rank"] == main_settings(runs)["lora.rank"] == "2, 4"
    assert main_settings(runs)["train.batch-size"] == "16"
    assert "resume-from" not in settings_of(runs)


def test_the_settings_to_reproduce_request_the_same_runs(tmp_path):
    config = parse_config(
        {
            "strategy": "decaf, fedavg",
            "seeds": "0, 1",
            "sweep": "lora.rank = 1, 2",
            "data.alpha": 9.0,
        }
    )
    folders = []
    for name, run in runs_of(config).items():
        settings = flatten(run)
        folders.append(
            write_run(tmp_path / name, settings.pop("strategy"), settings.pop("seed"), **settings)
        )
    again = parse_config(flat(tomllib.loads(settings_to_reproduce(folders))))
    assert runs_of(again) == runs_of(config)


def test_unrelated_runs_are_reproduced_one_by_one(tmp_path):
    first = write_run(tmp_path / "a", "decaf", **{"lora.rank": 2})
    second = write_run(tmp_path / "b", "fedavg", **{"data.alpha": 3.0})
    assert [(n, "strategy" in toml) for n, toml in commands([first, second])] == [(2, True)] * 2
    assert "sweep" not in commands([first, second])[0][1]
    assert len(commands([first])) == 1
