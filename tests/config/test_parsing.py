from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from flwr_decaf.config import Config, flatten, parse_config
from flwr_decaf.config.files import flat

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_defaults_of_the_app_are_those_of_the_dataclasses():
    app = tomllib.loads(PYPROJECT.read_text())["tool"]["flwr"]["app"]
    assert flat(app["config"]) == flatten(Config())


def test_an_empty_run_config_gives_the_defaults():
    assert parse_config({}) == Config()


def test_settings_survive_a_round_trip():
    given = {
        "strategy": "dlora",
        "lora.rank": 3,
        "data.alpha": 0.1,
        "topology.edge-probability": 1.0,
    }
    config = parse_config(given)
    assert (config.strategy, config.lora.rank, config.data.alpha) == ("dlora", 3, 0.1)
    assert flatten(config) == flatten(Config()) | given
    assert parse_config(flatten(config)) == config


def test_a_whole_number_becomes_a_float_if_needed():
    assert parse_config({"lora.alpha": 4}).lora.alpha == 4.0


@pytest.mark.parametrize(
    ("key", "values", "text"),
    [
        ("lora.target-modules", ["q_proj", "v_proj"], "q_proj, v_proj"),
        ("strategy", ["decaf", "fedavg"], "decaf, fedavg"),
        ("seeds", [0, 1, 2], "0, 1, 2"),
        ("data.classes", [], ""),
    ],
)
def test_comma_separated_settings_accept_lists(key, values, text):
    assert flatten(parse_config({key: values}))[key] == text


# Key, value, and what the message must contain: the key, the rule, the value, the remedy.
WRONG = [
    (
        "strategy",
        "decav",
        "strategy must be one or more of decaf, dlora.*got 'decav'; choose from",
    ),
    ("topology.name", "rng", "topology.name must be one of complete, ring.*got 'rng'"),
    ("topology.weights", "equal", "topology.weights must be one of auto, metropolis.*got 'equal'"),
    ("topology.edge-probability", 1.5, r"edge-probability must be in \[0, 1\]; got 1.5; 0.5 draws"),
    ("lora.rank", 0, "lora.rank must be >= 1; got 0; the papers use 2 to 16"),
    ("lora.rank", "8", "lora.rank must be a whole number; got '8'; write e.g. lora.rank=8"),
    ("lora.rank", True, "lora.rank must be a whole number; got true; write e.g. lora.rank=8"),
    (
        "lora.rank-pattern",
        '{"a": 2.5}',
        "rank-pattern must be a JSON object of integers > 0 by nam",
    ),
    ("lora.rank-pattern", "[1]", r"rank-pattern must be a JSON object .*; got '\[1\]'; write e.g."),
    ("lora.alpha-pattern", '{"(": 1}', "alpha-pattern must be a JSON object of numbers > 0 by nam"),
    ("lora.alpha-pattern", '{"a": 0}', "alpha-pattern must be a JSON object of numbers > 0 by nam"),
    ("lora.init-lora-weights", "pissa_niter_", "must be default, gaussian, pissa, pissa_niter_N"),
    ("lora.bias", "some", "lora.bias must be one of none, lora_only, all; got 'some'"),
    ("lora.rank", 2.5, "lora.rank must be a whole number; got 2.5"),
    (
        "weighted-mixing",
        "yes",
        "weighted-mixing must be true or false; got 'yes'; write .* weighted-mixing=false",
    ),
    ("trackers", "wandb, wb", "trackers must be none or more of tensorboard, wandb, mlflow, sep"),
    ("model.name", 0.5, "model.name must be text; got 0.5; write e.g. model.name='package:"),
    ("model.name", ["a", "b"], r"model.name must be text; got \['a', 'b'\]"),
    ("lora.target-modules", ["a,b"], "lora.target-modules must be a list of values without commas"),
    ("train.learning-rate", float("inf"), "train.learning-rate must be finite; got inf"),
    ("train.weight-decay", float("nan"), "train.weight-decay must be finite; got nan"),
    ("data.alpha", float("inf"), "data.alpha must be finite; got inf"),
    ("lora.dropout", 1.0, "lora.dropout must be >= 0 and < 1; got 1.0"),
    ("data.alpha", 0.0, "data.alpha must be > 0; got 0.0; 0.1 is very uneven"),
    ("data.partitioner", "dirichlt", "data.partitioner must be one of iid, stratified, dirichlet"),
    ("model.task", "poetry", "model.task must be one of text-classification"),
    ("num-server-rounds", 0, "num-server-rounds must be >= 1; got 0"),
    ("evaluate-every", -2, "evaluate-every must be >= -1; got -2"),
    ("train.learning-rate", -1e-3, "train.learning-rate must be > 0; got -0.001"),
    ("train.batch-size", 0, "train.batch-size must be >= 1; got 0"),
    ("lora.rnk", 4, "lora.rnk must be a setting of flwr-decaf; got 4; did you mean lora.rank?"),
    ("rnk", 4, "did you mean lora.rank?"),
    ("num_server_rounds", 3, "did you mean num-server-rounds?"),
    ("rounds", 3, "did you mean num-server-rounds?"),
    ("topology", "star", "did you mean topology.name?"),
    ("nodes", 3, "got 3; 'flwr-decaf list settings' lists all of them"),
]


@pytest.mark.parametrize(("key", "value", "line"), WRONG, ids=lambda x: str(x)[:25])
def test_a_wrong_value_is_reported_in_one_line(key, value, line):
    with pytest.raises(ValueError, match=line) as info:
        parse_config({key: value})
    assert "\n" not in str(info.value)
