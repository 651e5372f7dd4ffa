"""Training of each node before the first exchange, cached on disk.

Models that are merged by matching start from different initializations, and each node first trains
its own alone. Later runs with the same settings, including those of other strategies, load the
result.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
from datasets import Dataset
from huggingface_hub import cached_assets_path
from safetensors import safe_open

from flwr_decaf import __version__
from flwr_decaf.atomic import replacing
from flwr_decaf.clients.models.adapter import digest, get_adapter, initialize_adapter, set_adapter
from flwr_decaf.clients.tasks.contract import Task
from flwr_decaf.clients.training import train_locally
from flwr_decaf.data.sources import fingerprint
from flwr_decaf.seeds import derive_seed

if TYPE_CHECKING:
    from flwr_decaf.config import Train


def needs_pretraining(task: Task, train: Train, seed: int) -> bool:
    """Return whether a node still has the common initial model and must be pretrained first.

    Parameters
    ----------
    task : Task
        A task whose model has the values that the node received.
    train : config.Train
        ``pretrain_epochs``: 0 for no pretraining.
    seed : int
        The run's seed, from which the server drew the initial model.
    """
    return train.pretrain_epochs > 0 and digest(task.model) == _start(task, seed)


def draw_own_start(task: Task, seed: int, node: int) -> None:
    """Draw an initial model that is different on every node."""
    _draw(task, derive_seed(seed, "start", node))


def pretrain(
    task: Task, rows: Dataset, train: Train, seed: int, augmentation: str = "none"
) -> dict[str, float]:
    """Train the current model for ``train.pretrain_epochs``, or load the cached result.

    Parameters
    ----------
    task : Task
        A task whose model has the initial values, and afterwards the result.
    rows : Dataset
        Encoded rows of the node.
    train : config.Train
        Settings as for local training.
    seed : int
        Seed of the batches.
    augmentation : str
        ``data.augmentation``, with which ``task`` augments batches; by default "none". It is needed
        to distinguish cached results, since the rows and the model do not depend on it.

    Returns
    -------
    dict of str to float
        ``train-loss`` as in ``train_locally``, and ``train-seconds`` of this call.
    """
    started = time.perf_counter()
    settings = replace(train, local_epochs=train.pretrain_epochs)
    parts = (digest(task.model), fingerprint(rows), augmentation, settings, seed, __version__)
    key = repr(parts)
    name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    folder = cached_assets_path("flwr-decaf", namespace="pretraining")
    file = folder / f"{name}.safetensors"
    if file.exists():
        with safe_open(file, framework="pt") as saved:
            loss = json.loads(saved.metadata()["train-loss"])
        set_adapter(task.model, safetensors.torch.load_file(file))
    else:
        loss = train_locally(task, rows, settings, "AB", seed)["train-loss"]
        _save(task, file, loss)
    return {"train-loss": loss, "train-seconds": time.perf_counter() - started}


@lru_cache(maxsize=4)
def _start(task: Task, seed: int) -> str:
    current = {name: tensor.clone() for name, tensor in get_adapter(task.model).items()}
    _draw(task, seed)
    start = digest(task.model)
    set_adapter(task.model, current)
    return start


def _draw(task: Task, seed: int) -> None:
    # On the CPU, as on the server, since another device would draw different numbers.
    device = next(task.model.parameters()).device
    task.model.to("cpu")
    initialize_adapter(task.model, seed)
    task.model.to(device)


def _save(task: Task, file: Path, loss: float) -> None:
    state = {name: x.detach().cpu().contiguous() for name, x in get_adapter(task.model).items()}
    with replacing(file) as unfinished:
        safetensors.torch.save_file(state, unfinished, metadata={"train-loss": json.dumps(loss)})
