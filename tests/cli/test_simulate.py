from __future__ import annotations

from pathlib import Path

import pytest

from flwr_decaf.cli import simulate
from flwr_decaf.cli.engine import simulation
from flwr_decaf.cli.simulate import close
from flwr_decaf.config import Config, flatten
from flwr_decaf.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]


def test_a_run_that_nobody_is_at_is_not_running(tmp_path):
    begun, done = (RunFolder.create(tmp_path / name, {}) for name in ("begun", "done"))
    done.finish("finished")
    close([begun, done, RunFolder(tmp_path / "never begun")])
    assert (begun.run["status"], done.run["status"]) == ("interrupted", "finished")
    assert not (tmp_path / "never begun").exists()


@pytest.mark.parametrize(
    ("begun", "told"), [(True, "resume-from={}/r"), (False, "no run was begun")]
)
def test_whoever_interrupts_is_told_how_to_go_on(tmp_path, monkeypatch, begun, told):
    def interrupted(*args, **named):
        if begun:
            RunFolder.create(tmp_path / "r", {})
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate, "flwr_run", interrupted)
    settings = [f"output-dir={tmp_path}", "run-name=r"]
    with pytest.raises(KeyboardInterrupt, match=told.format(tmp_path)):
        simulate.simulate(ROOT / "conf" / "ring.toml", settings, 4, simulation(4), ROOT, None)
    assert RunFolder(tmp_path / "r").run.get("status") == ("interrupted" if begun else None)


def test_another_number_of_nodes_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(simulate, "flwr_run", None)
    conf = tmp_path / "conf.toml"
    conf.write_text("")
    begun = RunFolder.create(tmp_path / "r", flatten(Config()))
    begun.update(network={"nodes": 4})
    with pytest.raises(ValueError, match="it was 4 and is 5; use --nodes 4"):
        simulate.simulate(conf, [f"resume-from={begun.path}"], 5, simulation(5), ROOT, None)
    assert begun.run["status"] == "running"  # untouched
