"""One thread, so that results are the same on every machine; and a process identity for Flower."""

from __future__ import annotations

import contextlib
import gc
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
gc.disable()  # until all tests are collected

# Tests do not depend on how busy the machine is.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# A message can only be made by a process that Flower started as part of a run; tests/local_grid.py
# plays that part in this process. No public way to say so; older versions ask for none.
with contextlib.suppress(ImportError):
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 0


def pytest_collection_finish() -> None:
    """Leave modules and tests out of garbage collections, which take seconds otherwise."""
    gc.enable()
    gc.freeze()
