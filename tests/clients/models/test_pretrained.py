"""Quantized bases, in processes with bitsandbytes, which has a folder of its own (see Makefile)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flwr_decaf.runs.folder import RunFolder

ROOT = Path(__file__).parents[3]
LINEAR = {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}


def run(*command):
    paths = os.pathsep.join([str(ROOT / ".venv" / "quantization"), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_an_adapter_trains_in_full_precision_and_loads_on_either_base(quantization, tmp_path):
    done = run(sys.executable, "-m", "tests.apps.quantized", quantization, str(tmp_path))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["linear"] == LINEAR[quantization]
    assert report["dtypes"] == ["torch.float32"]
    # Evaluated first, when bitsandbytes may pack layers, through which no gradient flows.
    assert report["moved"]
    trained, own, plain = report["trained, on its base, on the plain base"]
    assert trained["loss"] < report["before"]["loss"] - 0.2
    assert own == trained
    assert plain["loss"] == pytest.approx(trained["loss"], rel=0.05)


@pytest.mark.slow
def test_a_simulation_over_a_quantized_base(tmp_path):
    settings = {
        "model.quantization": "4bit", "num-server-rounds": 2, "evaluate-every": 2,
        "train.local-steps": 4, "data.max-train-samples": 200, "data.max-test-samples": 20,
        "output-dir": tmp_path, "run-name": "q",
    }  # fmt: skip
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = Path(sys.executable).parent / "flwr-decaf"
    done = run(str(command), "run", "conf/ring.toml", "--nodes", "3", *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = RunFolder(tmp_path / "q")
    scored = [line for line in folder.metrics if line["phase"] == "evaluate"]
    before, after = ([line["loss"] for line in scored if line["round"] == t] for t in (0, 2))
    assert max(after) < min(before)
    assert len(list((folder.path / "adapters").iterdir())) == 3
