"""The ServerApp as plain ``flwr run`` calls it, on the real ClientApp in this process."""

from __future__ import annotations

import time

import pytest
from flwr.app import Context, RecordDict

from flwr_decaf.app import client_app, preflight, server_app
from flwr_decaf.cli.processes import STARTED_AT
from flwr_decaf.config import flatten, parse_config
from tests.app.test_run import SETTINGS
from tests.local_grid import LocalGrid

N = 3


@pytest.mark.parametrize(("started_by_us", "trials"), [(False, 1), (True, 0)])
def test_a_step_is_tried_once_unless_flwr_decaf_already_did(
    started_by_us, trials, tmp_path, monkeypatch
):
    taken = []
    real = preflight.take_steps
    monkeypatch.setattr(preflight, "take_steps", lambda *what: taken.append(0) or real(*what))
    monkeypatch.delenv(STARTED_AT, raising=False)
    if started_by_us:
        monkeypatch.setenv(STARTED_AT, str(time.time()))
    settings = SETTINGS | {
        "strategy": "dlora, local-only", "num-server-rounds": 1, "output-dir": str(tmp_path),
        "run-name": "both", "train.learning-rate": 2e-3 + started_by_us / 1e4,
    }  # fmt: skip
    grid = LocalGrid(client_app.app, N)
    for context in grid.contexts.values():
        context.run_config = flatten(parse_config(settings))
    server_app.app(grid, Context(0, 0, {}, RecordDict(), flatten(parse_config(settings))))
    assert len(taken) == trials
    assert len(list(tmp_path.glob("both/*/metrics.jsonl"))) == 2
