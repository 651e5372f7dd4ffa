import os
import stat
from functools import partial

import pytest
from huggingface_hub import cached_assets_path

from flwr_decaf import caches


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    own = partial(cached_assets_path, assets_dir=tmp_path)
    monkeypatch.setattr(caches, "cached_assets_path", own)


def test_only_its_owner_may_enter_a_folder():
    held = os.umask(0)
    try:
        folder = caches.private_folder("rows")
    finally:
        os.umask(held)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_machines_that_share_the_cache_have_folders_of_their_own(monkeypatch):
    folders = set()
    for host in ("a", "b", "b", ""):
        monkeypatch.setattr(caches.platform, "node", lambda host=host: host)
        folders.add(caches.private_folder("rows"))
    assert len(folders) == 3
