"""Option objects, in settings and in constructors."""

from __future__ import annotations

import json

import numpy as np
import pytest

from flwr_decaf.config import (
    Attack,
    Evaluation,
    Failures,
    Participation,
    Robust,
    Rounds,
    parse_config,
    part,
)
from flwr_decaf.strategies import DeCAF, FedAvg
from flwr_decaf.strategies.relay.schedules import is_due


def test_settings_hold_the_options_that_strategies_take():
    given = {"retries": 3, "max-failures": 2, "evaluate-every": 4, "evaluate-fraction": 0.5}
    config = parse_config(given)
    assert part(config, Failures) == Failures(retries=3, max_failures=2)
    assert config.evaluation == Evaluation(evaluate_every=4, evaluate_fraction=0.5)


@pytest.mark.parametrize(
    ("rounds", "evaluated"),
    [
        (1, [1]),
        (3, [1, 2, 3]),
        (8, [2, 4, 6, 8]),
        (15, [3, 6, 9, 12, 15]),
        (17, [4, 8, 12, 16, 17]),
    ],
)
def test_runs_are_evaluated_up_to_four_times_before_the_end_by_default(rounds, evaluated):
    every = parse_config({"num-server-rounds": rounds}).evaluation.evaluate_every
    assert [t for t in range(1, rounds + 1) if is_due(t, every, rounds)] == evaluated


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (Evaluation, {"evaluate_every": -1}, "evaluate_every must be >= 0; got -1"),
        (Failures, {"retries": 0.5}, "retries must be a whole number; got 0.5"),
        (Participation, {"drop_probability": 1}, "drop_probability must be >= 0 and < 1; got 1.0"),
        (Participation, {"participation": [[-1]]}, "participation must be a JSON list"),
        (Robust, {"method": "median"}, "method must be one of none, clipping"),
        (Attack, {"sign_flipping": -1}, "sign_flipping must be >= 0"),
        (Rounds, {"mode": "eager"}, "mode must be one of synchronous, asynchronous; got 'eager'"),
        (Rounds, {"max_staleness": -1}, "max_staleness must be >= 0; got -1"),
        (Rounds, {"finished_share": 0.0}, "finished_share must be > 0 and <= 1; got 0.0"),
    ],
)
def test_values_are_checked_wherever_an_object_is_made(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


def test_values_take_the_type_of_their_default():
    assert Failures(retries=np.int64(2)).retries == 2
    assert type(Participation(drop_probability=0).drop_probability) is float
    assert Failures(max_failures=None) == Failures()


@pytest.mark.parametrize(
    ("given", "n", "tolerated"), [(-1, 5, 2), (-1, 1, 0), (0, 5, 0), (4, 5, 4)]
)
def test_half_of_the_nodes_may_fail_by_default(given, n, tolerated):
    assert Failures(max_failures=given).tolerated(n) == tolerated


def test_participation_is_read_from_lists_json_and_files(tmp_path):
    file = tmp_path / "rounds.json"
    file.write_text(json.dumps([[0, 1], [2]]))
    for given in ([[0, 1], [2]], "[[0, 1], [2]]", str(file)):
        assert Participation(given).schedule == [[0, 1], [2]]
    assert Participation().schedule == Participation(()).schedule == []


def test_a_field_given_by_its_name_is_that_of_the_object():
    by_name = DeCAF("ring", evaluate_every=5, retries=2, robust="trimmed-mean", byzantine=2)
    objects = DeCAF(
        "ring",
        evaluation=Evaluation(5),
        failures=Failures(2),
        robust=Robust("trimmed-mean", 2),
    )
    for name in ("evaluation", "failures", "participation", "robust", "attack", "resume"):
        assert getattr(by_name, name) == getattr(objects, name)
    both = DeCAF("ring", robust=Robust("clipping", 3), byzantine=2)
    assert both.robust == Robust("clipping", 2)
    assert FedAvg(num_rounds=3, max_failures=1).failures == Failures(max_failures=1)


def test_unknown_options_are_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"no argument 'retrys'; .* did you mean 'retries'\?"):
        DeCAF("ring", retrys=2)
    with pytest.raises(TypeError, match=r"failures must be an object of Failures; got 2; write"):
        DeCAF("ring", failures=2)


def test_nodes_are_slowed_down_by_factors_that_are_used_in_turn():
    train = parse_config({"train.slowdown": "1, 2.5"}).train
    assert [train.slowdown_of(node) for node in range(4)] == [1, 2.5, 1, 2.5]
    assert parse_config({}).train.slowdown_of(3) == 1
    for wrong in ("0.5", "2, x", "inf", "nan"):
        with pytest.raises(ValueError, match="train.slowdown must be numbers >= 1, separated by"):
            parse_config({"train.slowdown": wrong})
