"""One thread, so that results are the same on every machine; an identity for Flower; workers."""

from __future__ import annotations

import contextlib
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

torch.set_num_threads(1)

# A message can only be made by a process that Flower started as part of a run; tests/local_grid.py
# plays that part in this process. No public way to say so; older versions ask for none.
with contextlib.suppress(ImportError):
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 0


def pytest_collection_modifyitems(items):
    """Assign tests to the workers of pytest-xdist: a file to one, and all engines to one.

    Tests of a file share fixtures, and engines share the cores. Engines come first, because they
    take longest.
    """
    for item in items:
        group = "engine" if item.get_closest_marker("engine") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("engine") is None)
