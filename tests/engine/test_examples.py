"""The projects under examples/, run as a user would, and checked by what they save."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from flwr.app import ArrayRecord
from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from flwr_decaf.cli.engine import simulation
from flwr_decaf.cli.flwr_run import flwr_run
from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies import DeCAF
from tests.apps.pure_mixing import make_app
from tests.local_grid import LocalGrid

pytestmark = pytest.mark.engine

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(example, tmp_path):
    saved, settings, log = (tmp_path / name for name in ("model", "run.toml", "log.txt"))
    settings.write_text(f'output = "{saved}"\n')
    flwr_run(EXAMPLES / example, settings, simulation(nodes=3), log)
    assert saved.exists(), log.read_text()[-3000:]
    return load_file(saved), log.read_text()


@pytest.fixture
def task_of(monkeypatch):
    def load(example, package):
        monkeypatch.syspath_prepend(EXAMPLES / example)
        module = importlib.import_module(f"{package}.task")
        monkeypatch.delitem(sys.modules, f"{package}.task")
        return module

    return load


@pytest.mark.slow
def test_a_cnn_on_digits_is_decentralized_parallel_sgd(tmp_path, task_of):
    task = task_of("digits", "digits")
    state, log = run("digits", tmp_path)
    net = task.Net()
    net.load_state_dict(state)  # including the integer counters of batch normalization
    assert state["layers.1.num_batches_tracked"].item() == 5 * 15  # 5 rounds of 479 rows by 32
    accuracy = task.test(net, task.load_test())
    assert accuracy > 0.85
    reported = [float(x) for x in re.findall(r"'accuracy': '?([0-9.e-]+)", log)]
    assert reported[-1] == pytest.approx(accuracy, abs=1e-3)  # the last result of evaluate_fn
    assert reported[0] < 0.3  # and at the start


@pytest.mark.slow
def test_lora_on_text_learns_with_decaf(tmp_path, task_of):
    task = task_of("peft-text", "peft_text")
    state, _ = run("peft-text", tmp_path)
    model = task.load_model()
    set_peft_model_state_dict(model, state)
    assert task.test(model, task.load_rows("test")[::8]) > 0.8


def test_decaf_refuses_a_model_without_lora_and_names_an_alternative(task_of):
    arrays = ArrayRecord(task_of("digits", "digits").Net().state_dict())
    with pytest.raises(ValueError, match=r"no lora_A, lora_B pair.*use DLoRA"):
        DeCAF("ring").start(LocalGrid(make_app(peer_mixing), 2), arrays, num_rounds=1)


@pytest.mark.parametrize("example", ["digits", "peft-text"])
def test_a_project_needs_only_two_changed_lines(example):
    sources = list((EXAMPLES / example).rglob("*.py"))
    mentions = [
        line
        for file in sources
        for line in file.read_text().splitlines()
        if "decaf" in line.lower()
    ]
    marked = [
        line for file in sources for line in file.read_text().splitlines() if "# was:" in line
    ]
    assert len(marked) == 2
    assert not [line for line in mentions if line not in marked and "import" not in line]
    task = next(file for file in sources if file.name == "task.py").read_text()
    assert "flwr" not in task
