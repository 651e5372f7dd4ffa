from __future__ import annotations

from flwr_decaf.run_folder import RunFolder
from flwr_decaf.simulate import _close


def test_a_run_that_nobody_is_at_is_not_running(tmp_path):
    begun, done = (RunFolder.create(tmp_path / name, {}) for name in ("begun", "done"))
    done.finish("finished")
    _close([begun, done, RunFolder(tmp_path / "never begun")])
    assert (begun.run["status"], done.run["status"]) == ("interrupted", "finished")
    assert not (tmp_path / "never begun").exists()
