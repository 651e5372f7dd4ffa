"""The real model on a few real posts."""

from __future__ import annotations

import pytest

from flwr_decaf.clients.loading import forget_task, load_node_data, load_task
from flwr_decaf.clients.models.adapter import initialize_adapter
from flwr_decaf.config import Data, Lora, Model

SETTINGS = Model(), Lora(rank=4), Data(max_train_samples=120, max_test_samples=40, max_length=24)


@pytest.fixture
def task():
    """MiniLM with LoRA as every actor builds it; built anew, because training changes it."""
    forget_task()
    task = load_task(*SETTINGS)
    initialize_adapter(task.model, seed=0)
    return task


@pytest.fixture
def rows(task):
    return load_node_data(*SETTINGS, seed=0, node=0, n=3)
