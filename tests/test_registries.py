from __future__ import annotations

import subprocess
import sys

import pytest

from flwr_decaf import registries
from flwr_decaf.registries import Registry

EVERY = {
    name: Registry(places)
    for name, places in vars(registries).items()
    if isinstance(places, dict) and name.isupper() and name != "READERS"  # names of another library
}


@pytest.mark.parametrize(
    ("registry", "name"), [(key, name) for key, each in EVERY.items() for name in each]
)
def test_all_registered_names_exist(registry, name):
    assert EVERY[registry][name] is not None


def test_a_registry_is_a_mapping():
    registry: Registry[object] = Registry({"join": "os.path:join", "sep": "os.path:sep"})
    assert list(registry) == ["join", "sep"]
    assert len(registry) == 2
    assert "sep" in registry
    assert "os" not in registry
    assert registry["join"]("a", "b") == f"a{registry['sep']}b"
    with pytest.raises(KeyError):
        registry["os"]


def test_names_are_checked_without_importing_what_they_stand_for():
    code = (
        "import sys; from flwr_decaf.registries import *; "
        "assert 'decaf' in STRATEGIES and 'clip' in TASKS; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
