from __future__ import annotations

from pathlib import Path

import pytest

from flwr_decaf.cli import simulate
from flwr_decaf.cli.engine import simulation
from flwr_decaf.cli.simulate import close
from flwr_decaf.config import Config, flatten
from flwr_decaf.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]


def test_a_run_without_a_process_is_marked_as_interrupted(tmp_path):
    started, done = (RunFolder.create(tmp_path / name, {}) for name in ("started", "done"))
    done.finish("finished")
    close([started, done, RunFolder(tmp_path / "never started")])
    assert (started.run["status"], done.run["status"]) == ("interrupted", "finished")
    assert not (tmp_path / "never started").exists()


@pytest.mark.parametrize(
    ("started", "message"), [(True, "resume-from={}/r"), (False, "no run started")]
)
def test_an_interrupt_reports_how_to_resume(tmp_path, monkeypatch, started, message):
    def interrupted(*args, **named):
        if started:
            RunFolder.create(tmp_path / "r", {})
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate, "flwr_run", interrupted)
    settings = [f"output-dir={tmp_path}", "run-name=r"]
    with pytest.raises(KeyboardInterrupt, match=message.format(tmp_path)):
        simulate.simulate(ROOT / "conf" / "ring.toml", settings, 4, simulation(4), ROOT, None)
    assert RunFolder(tmp_path / "r").run.get("status") == ("interrupted" if started else None)


def test_another_number_of_nodes_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(simulate, "flwr_run", None)
    conf = tmp_path / "conf.toml"
    conf.write_text("")
    started = RunFolder.create(tmp_path / "r", flatten(Config()))
    started.update(network={"nodes": 4})
    with pytest.raises(ValueError, match="it was 4 and is 5; use --nodes 4"):
        simulate.simulate(conf, [f"resume-from={started.path}"], 5, simulation(5), ROOT, None)
    assert started.run["status"] == "running"  # unchanged
