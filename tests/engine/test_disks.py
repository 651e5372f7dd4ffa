"""Read-only and full disks, as small file systems in memory, which only root can mount."""

from __future__ import annotations

import pytest

from flwr_decaf.runs.folder import RunFolder
from tests.engine.test_flwr_run import adapters
from tests.engine.test_killed_runs import start

pytestmark = pytest.mark.engine


def test_a_read_only_disk_is_refused_before_anything_starts(mounted, tmp_path):
    place, mount = mounted
    mount("remount,ro")
    log = tmp_path / "out"
    assert start(place / "runs", "run", log).wait(120) == 2
    assert "output-dir must be a writable folder" in log.read_text()


@pytest.mark.slow
def test_a_run_that_filled_its_disk_fails_with_the_cause_and_can_be_resumed(mounted, tmp_path):
    place, mount = mounted
    log, other = tmp_path / "out", tmp_path / "other"
    assert start(place, "run", log).wait(600) == 1
    output = log.read_text() + (place / "run" / "log.txt").read_text()
    assert "free disk space, and resume the run with resume-from" in " ".join(output.split())
    mount("remount,size=200m")
    assert start(place, "run", log, **{"resume-from": place / "run"}).wait(600) == 0, (
        log.read_text()
    )
    assert start(tmp_path, "whole", other).wait(600) == 0
    expected, found = adapters(RunFolder(tmp_path / "whole")), adapters(RunFolder(place / "run"))
    for name, state in expected.items():
        assert all((x == found[name][key]).all() for key, x in state.items())
