"""The checks before a run starts: what they refuse, and that they leave no trace."""

from __future__ import annotations

import math
import time

import pytest
import torch
from transformers import BertModel

from flwr_decaf.app import preflight
from flwr_decaf.app.compatibility import check_compatibility
from flwr_decaf.app.preflight import check
from flwr_decaf.clients.loading import forget_task, load_task
from flwr_decaf.clients.models.adapter import get_adapter
from flwr_decaf.config import parse_config

SETTINGS = {"data.max-train-samples": 60, "data.max-test-samples": 10, "data.max-length": 16}
NETWORK = {
    "model.task": "cnn", "model.name": "mlp", "model.width": 16, "strategy": "dlora",
    "data.name": "package:flwr_decaf_demo/fashion_mnist", "data.image-size": 14,
    "data.max-train-samples": 60, "data.max-test-samples": 10,
}  # fmt: skip


def held(config):
    task = load_task(config.model, config.lora, config.data)
    return {name: x.clone() for name, x in get_adapter(task.model).items()}


@pytest.mark.parametrize("settings", [SETTINGS, NETWORK], ids=["adapter", "network"])
def test_the_trial_step_restores_the_model(settings):
    config = parse_config(settings)
    before = held(config)
    check(config, 3)
    assert all(torch.equal(x, before[key]) for key, x in held(config).items())
    forget_task()


def test_a_step_that_fails_is_refused():
    config = parse_config(NETWORK | {"train.learning-rate": 1e38})  # AdamW's first step is tenfold
    with pytest.raises(
        ValueError, match=r"learning-rate = 1e\+38 on .* failed \(RuntimeError: .*ove"
    ):
        check(config, 3)
    check(config, 3, trains=False)


def test_a_loss_that_is_not_finite_is_refused(small_base):
    base = BertModel.from_pretrained(small_base)
    base.encoder.layer[1].output.dense.bias.data[0] = float("inf")
    base.save_pretrained(small_base)
    config = parse_config(SETTINGS | {"model.name": small_base})
    with pytest.raises(
        ValueError, match=r"trial step .* gave a loss of nan and .* not finite; lowe"
    ):
        check(config, 3)


def test_settings_that_do_not_apply_to_relay_sum_are_refused():
    relays = NETWORK | {"strategy": "relay-sum"}
    check(parse_config(relays), 3, trains=False)
    for key, value in (("robust.method", "clipping"), ("topology.weights", "uniform")):
        with pytest.raises(ValueError, match=rf"{key} must be \w+ with relay-sum.*got {value}; "):
            check(parse_config(relays | {key: value}), 3, trains=False)
    with pytest.raises(ValueError, match="topology must be connected to have a spanning tree"):
        check(parse_config(relays | {"topology.name": "isolated"}), 3, trains=False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"robust.method": "clipping"}, "robust.method must be none .* got clipping; omit it"),
        ({"attack.sign-flipping": 1}, "attack.sign-flipping must be 0 .* got 1; omit it"),
        ({"weighted-mixing": True}, "weighted-mixing must be false .* got true; omit it"),
        ({"topology.weights": "metropolis-examples"}, "topology.weights must not be metropolis-ex"),
        ({"train.pretrain-epochs": 2}, "train.pretrain-epochs must be 0 .* got 2; omit it"),
    ],
)
def test_settings_that_do_not_apply_to_gradient_tracking_are_refused(changed, message):
    tracks = NETWORK | {"strategy": "gradient-tracking"}
    check(parse_config(tracks), 3, trains=False)
    with pytest.raises(ValueError, match=message):
        check(parse_config(tracks | changed), 3, trains=False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"strategy": "fedavg"}, "posts.encryption must be 'none' with strategy fedavg"),
        ({"strategy": "centralized"}, "posts.encryption must be 'none' with strategy centralized"),
        ({"strategy": "relay-sum"}, "posts.encryption must be none with relay-sum"),
        ({"evaluate-average": True}, "evaluate-average .* must not be set with posts.encryption"),
        ({"attack.sign-flipping": 1}, "attack.sign-flipping must be 0 with posts.encryption"),
    ],
)
def test_settings_that_need_readable_posts_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        check(parse_config(NETWORK | {"posts.encryption": "x25519"} | changed), 3, trains=False)
    check(parse_config(NETWORK | {"posts.encryption": "x25519"}), 3, trains=False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"strategy": "fedavg"}, "rounds.mode must be 'synchronous' with strategy fedavg"),
        ({"strategy": "tad-lora"}, "rounds.mode must be synchronous with tad-lora"),
        ({"mixing-steps": "2"}, "rounds.mode must be synchronous with mixing-steps '2'"),
        ({"topology.dynamic": "base"}, "rounds.mode must be synchronous with topology.dynamic"),
        ({"topology.file": "FILE"}, "synchronous with graphs that change from round to round"),
    ],
)
def test_settings_that_need_common_rounds_are_refused(changed, message, tmp_path):
    file = tmp_path / "rounds.json"
    file.write_text('{"rounds": [{"edges": [[0, 1], [1, 2]]}, {"edges": [[0, 2], [1, 2]]}]}')
    changed = {key: str(file) if value == "FILE" else value for key, value in changed.items()}
    with pytest.raises(ValueError, match=message):
        check(parse_config(NETWORK | {"rounds.mode": "asynchronous"} | changed), 3, trains=False)
    check(parse_config(NETWORK | {"rounds.mode": "asynchronous"}), 3, trains=False)


def test_runs_with_the_same_training_settings_are_tried_once(monkeypatch):
    taken = []
    import flwr_decaf.app.preflight as module

    monkeypatch.setattr(module, "take_steps", lambda *what: taken.append(0) or 1 / 0)
    config = parse_config(NETWORK | {"train.learning-rate": 1.25e-3})
    with pytest.raises(ValueError, match=r"failed \(ZeroDivisionError: division by zero\); see "):
        check(config, 3)
    monkeypatch.undo()
    calls = []
    real = module.take_steps
    monkeypatch.setattr(module, "take_steps", lambda *what: calls.append(0) or real(*what))
    for strategy in ("dlora", "fedavg", "local-only"):
        check(parse_config(NETWORK | {"train.learning-rate": 1.25e-3, "strategy": strategy}), 3)
    assert (len(taken), len(calls)) == (1, 1)


@pytest.fixture
def steps(monkeypatch):
    """Results of the trial steps."""
    taken, real = [], preflight.take_steps

    def take(*arguments):
        taken.append(real(*arguments))
        return taken[-1]

    monkeypatch.setattr(preflight, "take_steps", take)
    return taken


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("same", [True, False])
def test_half_precision_bases_pass_the_trial_step(small_base, steps, dtype, same):
    settings = SETTINGS | {"model.name": small_base, "model.dtype": dtype}
    check(parse_config(settings | {"train.precision": dtype if same else "fp32"}), 3)
    (taken,) = steps
    assert math.isfinite(taken.losses[0])


def test_incompatible_precisions_are_refused_in_one_line(small_base):
    settings = {"model.name": small_base, "model.dtype": "bf16", "train.precision": "fp16"}
    if torch.cuda.is_available():
        settings["train.device"] = "cpu"
    with pytest.raises(ValueError, match=r"precision = fp16, model.dtype = bf16 .* failed \(") as e:
        check(parse_config(SETTINGS | settings), 3)
    assert "\n" not in str(e.value)


def test_a_device_that_only_other_machines_have_is_not_tried(steps):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    check(parse_config(NETWORK | {"train.device": "cuda"}), 3)
    assert not steps


def test_the_trial_step_is_fast_on_the_default_model():
    config = parse_config(SETTINGS | {"seed": 11, "data.max-length": 48})
    check(config, 3, trains=False)  # loads everything else
    started = time.perf_counter()
    check(config, 3)
    assert time.perf_counter() - started < 10  # about 0.5 s; a guard against more than one step


def test_rows_without_a_text_cause_one_warning_for_all_runs(small_base, tmp_path, caplog):
    file = tmp_path / "rows.csv"
    file.write_text("text,label\n" + "one,a\ntwo,b\n" * 10 + ",a\nthree,\n")
    settings = SETTINGS | {"model.name": small_base, "data.name": str(file)}
    for strategy in ("dlora", "decaf"):
        check(parse_config(settings | {"strategy": strategy, "data.partitioner": "iid"}), 2)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["data.name: 2 rows without a text or a label are left out"]


@pytest.mark.parametrize("strategy", ["dlora", "fedavg"])
def test_a_local_head_requires_adapters_on_a_graph(strategy):
    with pytest.raises(ValueError, match=r"local-head must be false with .*; got true"):
        check(parse_config(NETWORK | {"strategy": strategy, "local-head": True}), 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weighted-mixing": True}, "weighted-mixing must be false with a robust rule"),
        (
            {"topology.weights": "metropolis-examples"},
            "topology.weights must not be metropolis-examples with a robust rule",
        ),
        (
            {"strategy": "tad-lora", "train.optimizer-state": "kept"},
            "train.optimizer-state must be fresh with strategy tad-lora and a robust rule",
        ),
    ],
)
def test_settings_that_a_robust_rule_excludes_are_refused(changed, message):
    robust = NETWORK | {"robust.method": "clipping", "topology.name": "complete"}
    with pytest.raises(ValueError, match=message):
        check(parse_config(robust | changed), 5, trains=False)


def test_training_options_that_exclude_each_other_are_refused():
    for changed, message in (
        ({"train.warmup-steps": 5}, "train.warmup-steps must be 0 with train.schedule constant"),
        ({"train.optimizer": "sdg"}, "train.optimizer must be one of .*; got 'sdg'"),
        (
            {"train.gradient-checkpointing": True},
            "train.gradient-checkpointing must be false for a model .* is a CnnForImageC",
        ),
        (
            {"train.gradient-checkpointing": True, "model.dropout": "none"},
            "train.gradient-checkpointing must be false with model.dropout none",
        ),
        (
            {"lora.init-lora-weights": "pissa", "model.quantization": "4bit"},
            "lora.init-lora-weights must be default .*quantization 4bit, .*; got 'pissa'; set",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            check(parse_config(NETWORK | changed), 3, trains=False)
    warm = {"train.warmup-steps": 5, "train.schedule": "linear", "train.optimizer": "rmsprop"}
    check(parse_config(NETWORK | warm), 3, trains=False)


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({"strategy": "decaf"}, True),
        ({"strategy": "dlora"}, False),
        ({"strategy": "dlora-fa"}, False),
        ({"strategy": "fedavg"}, False),
        ({"strategy": "dlora", "robust.method": "clipping", "topology.name": "complete"}, True),
    ],
)
def test_dora_is_refused_where_products_are_mixed(small_base, changed, refused):
    config = parse_config(
        SETTINGS | {"model.name": small_base, "lora.use-dora": True, "lora.rank": 2} | changed
    )
    if refused:
        with pytest.raises(ValueError, match=r"lora.use-dora must be false .*got true .*use dlora"):
            check(config, 4)
    else:
        check(config, 4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"strategy": "dlora"}, "lora.ranks must be empty with strategy dlora, as only products"),
        ({"strategy": "fedavg"}, "lora.ranks must be empty with strategy fedavg"),
        ({"strategy": "dlora", "robust.method": "clipping"}, "lora.ranks must be empty with"),
        ({"lora.ranks": "2, 16"}, "lora.ranks must be at most lora.rank, 8; got 16"),
        ({"lora.rank-pattern": '{"query": 4}'}, "lora.ranks must be empty with lora.rank-pattern"),
        ({"lora.init-lora-weights": "olora"}, "must be empty with lora.init-lora-weights 'olora'"),
    ],
)
def test_ranks_that_differ_are_refused_where_they_cannot_be_mixed(changed, message):
    settings = {"strategy": "decaf", "lora.rank": 8, "lora.ranks": "2, 4, 8"}
    check_compatibility(parse_config(settings))
    with pytest.raises(ValueError, match=message):
        check_compatibility(parse_config(settings | changed))


@pytest.mark.parametrize("ranks", ["0", "2, x", "-1", "2.5"])
def test_ranks_that_are_not_whole_numbers_are_refused(ranks):
    with pytest.raises(ValueError, match="lora.ranks must be integers >= 1, separated by commas"):
        parse_config({"lora.ranks": ranks})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"strategy": "dlora"}, "posts.energy must be 1 where factors are averaged.*got 0.9"),
        ({"strategy": "fedavg"}, "posts.energy must be 1.0 with strategy fedavg; got 0.9"),
        ({"strategy": "centralized"}, "posts.energy must be 1.0 with strategy centralized"),
        ({"lora.init-lora-weights": "pissa"}, "posts.energy must be 1 with .* 'pissa'.*got 0.9"),
    ],
)
def test_truncated_posts_are_refused_where_they_cannot_be_mixed(changed, message):
    settings = {"strategy": "decaf", "posts.energy": 0.9}
    check_compatibility(parse_config(settings))
    with pytest.raises(ValueError, match=message):
        check(parse_config(settings | changed), n=3)


@pytest.mark.parametrize("energy", [0.0, 1.5, -1.0])
def test_the_share_that_posts_hold_is_above_zero_and_at_most_one(energy):
    with pytest.raises(ValueError, match=f"posts.energy must be > 0 and <= 1; got {energy}"):
        parse_config({"posts.energy": energy})
