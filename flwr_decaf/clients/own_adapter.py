"""The node's own model at the end of a run, in a file that only its own node-config names.

    --node-config 'partition-id=0 num-partitions=4 adapter-path="/data/adapter.safetensors"'

The file has the tensors that a train function returns, by name. It is written when the strategy
collects the models, whether or not they leave the nodes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch

from flwr_decaf.atomic import replacing
from flwr_decaf.lora import State

ADAPTER_PATH = "adapter-path"


def check_own_adapter(node_config: Mapping[str, object]) -> None:
    """Refuse a path that cannot be written, before anything is trained.

    Raises
    ------
    ValueError
        If it is a folder, or its folder does not exist or is not writable.
    """
    file = _path(node_config)
    if file and (file.is_dir() or not os.access(file.parent, os.W_OK)):
        raise ValueError(
            f"{ADAPTER_PATH} must be a file in an existing folder that the node can write to; "
            f"{file.name} is not; change it in --node-config"
        )


def save_own_adapter(node_config: Mapping[str, object], held: State) -> None:
    """Write the node's model to its own file, if its node-config names one."""
    file = _path(node_config)
    if file:
        tensors = {name: x.detach().cpu().contiguous() for name, x in held.items()}
        with replacing(file) as unfinished:
            safetensors.torch.save_file(tensors, unfinished)


def _path(node_config: Mapping[str, object]) -> Path | None:
    given = str(node_config.get(ADAPTER_PATH, ""))
    return Path(given) if given else None
