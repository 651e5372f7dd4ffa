"""The real model on real posts, small enough for seconds."""

from __future__ import annotations

import pytest

from flwr_decaf.clients.tasks import load_node_data, load_task
from flwr_decaf.config import Data, Lora, Model

SETTINGS = Model(), Lora(rank=4), Data(max_train_samples=120, max_test_samples=40, max_length=24), 0


@pytest.fixture
def task():
    """MiniLM with LoRA as every actor builds it; fresh, because training moves it."""
    load_task.cache_clear()
    return load_task(*SETTINGS)


@pytest.fixture
def rows(task):
    return load_node_data(*SETTINGS, node=0, n=3)
