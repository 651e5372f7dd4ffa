from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from flwr_decaf.config import Config, flatten
from flwr_decaf.config.files import checked_settings, to_toml

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def conf(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('strategy = "dlora"\n[lora]\nrank = 4\n', encoding="utf8")
    return file


def test_overrides_take_precedence_over_the_file_and_the_file_over_defaults(conf):
    values = checked_settings(conf, ["lora.rank=2", "seed=3", "output-dir=/tmp/x y"], n=3)
    expected = {"strategy": "dlora", "lora.rank": 2, "seed": 3, "output-dir": "/tmp/x y"}
    assert values == flatten(Config()) | expected


def test_paths_become_absolute(conf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graph.json").write_text('{"edges": [[0, 1], [1, 2]]}')
    values = checked_settings(conf, ["topology.file=graph.json", "output-dir=here"], n=3)
    assert values["topology.file"] == str(tmp_path / "graph.json")
    assert values["output-dir"] == str(tmp_path / "here")


def test_settings_survive_a_round_trip_through_toml():
    values = {"a.b": 'quote " and \\ and ä', "a.c": 1e-5, "d": True, "e": 3}
    table = tomllib.loads(to_toml(values))
    assert table == {"a": {"b": 'quote " and \\ and ä', "c": 1e-5}, "d": True, "e": 3}


@pytest.mark.parametrize(
    ("overrides", "n", "complaint"),
    [
        (["lora.rank"], 3, "--set must be key=value; got 'lora.rank'"),
        (["lora.rank=0"], 3, "lora.rank must be >= 1; got 0"),
        (["strategy=nonsense"], 3, "strategy must be one or more of"),
        (["topology.name=random-regular", "topology.degree=3"], 5, r"n \* degree even; got.*n=5"),
        (["topology.name=small-world", "topology.degree=9"], 5, "2 <= degree <= n - 1"),
        (["topology.file=no.json"], 3, "topology.file must be a JSON file.*no.json"),
    ],
)
def test_impossible_settings_are_refused_before_anything_starts(conf, overrides, n, complaint):
    with pytest.raises(ValueError, match=complaint):
        checked_settings(conf, overrides, n)


def test_a_missing_or_invalid_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"CONF must be a TOML file.*nowhere.toml"):
        checked_settings(tmp_path / "nowhere.toml", [], 3)
    (tmp_path / "broken.toml").write_text("lora.rank =")
    with pytest.raises(ValueError, match=r"CONF must be a TOML file.*broken.toml"):
        checked_settings(tmp_path / "broken.toml", [], 3)


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.toml")), ids=lambda f: f.stem)
def test_every_file_in_conf_is_valid_and_contains_its_command(file):
    command = next(line for line in file.read_text().splitlines() if "flwr-decaf run" in line)
    assert f"flwr-decaf run {file.relative_to(CONF).with_suffix('')} --nodes" in command
    assert checked_settings(file, [], n=int(command.split("--nodes")[1].split()[0]))


def test_a_participation_schedule_replaces_its_file(tmp_path):
    file = tmp_path / "schedule.json"
    file.write_text("[[0, 1], [1]]")
    conf = tmp_path / "run.toml"
    conf.write_text("")
    for given in (str(file), "[[0, 1], [1]]"):
        values = checked_settings(conf, [f"participation={given}"], n=2)
        assert values["participation"] == "[[0, 1], [1]]"
    assert checked_settings(conf, [], n=2)["participation"] == ""
    conf.write_text("participation = [[0], [1]]")
    assert checked_settings(conf, [], n=2)["participation"] == "[[0], [1]]"


@pytest.mark.parametrize("text", ["😀 {text}", "\x7f", "a\u2028b", 'quote " and \\'])
def test_any_text_survives_toml(text):
    assert tomllib.loads(to_toml({"data.prompt": text}))["data"]["prompt"] == text
