"""GPUs shared by clients; they are only declared to Ray, so the tests need none."""

from __future__ import annotations

import pytest

from flwr_decaf.cli.engine import simulation
from flwr_decaf.cli.flwr_run import flwr_run
from flwr_decaf.config.files import checked_settings, to_toml
from flwr_decaf.runs.folder import RunFolder
from tests.engine.test_flwr_run import ROOT, SETTINGS

pytestmark = pytest.mark.engine


@pytest.mark.slow
def test_the_number_of_actors_is_limited_by_the_shares_of_a_gpu(tmp_path):
    overrides = [f"{key}={value}" for key, value in SETTINGS.items()]
    values = checked_settings(ROOT / "conf" / "ring.toml", overrides, n=4)
    values |= {"output-dir": str(tmp_path), "run-name": "half", "train.device": "cpu"}
    settings = tmp_path / "run.toml"
    settings.write_text(to_toml(values))
    engine = simulation(nodes=4, gpus=0.5)
    # One GPU and 8 cores: the GPU is what limits the actors, to two.
    declared = {"init-args-num-gpus": 1, "init-args-num-cpus": 8}
    engine = engine._replace(federation={**engine.federation, **declared})
    flwr_run(ROOT, settings, engine, tmp_path / "log")
    folder = RunFolder(tmp_path / "half")
    assert folder.run["status"] == "finished", (tmp_path / "log").read_text()[-3000:]
    assert len({line["process"] for line in folder.metrics}) == 2


@pytest.mark.parametrize("share", [0.4, 0.75, 1.5, -1.0, -0.5, float("inf"), float("nan")])
def test_shares_that_would_hang_are_refused(share):
    with pytest.raises(ValueError, match=f"--gpus must be 0, 1/k or a whole number; got {share}"):
        simulation(nodes=4, gpus=share)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1 / 3, 0.5, 1.0, 2.0])
def test_valid_shares_are_accepted(share):
    assert simulation(nodes=4, gpus=share)
