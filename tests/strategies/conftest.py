from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """Return a folder for the keys of nodes, which ``keyed_grid`` fills."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
def store(tmp_path):
    """Return an existing folder for posts, as a string."""
    (tmp_path / "store").mkdir()
    return str(tmp_path / "store")
