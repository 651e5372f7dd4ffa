"""Frozen prefixes of a task's model according to the settings: dropout, and what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from peft import PeftModel
from torch import nn

from flwr_decaf.clients.models.encoders import Encoder, find_encoders
from flwr_decaf.clients.models.frozen_prefix import FrozenPrefix
from flwr_decaf.clients.models.hardware import PRECISIONS
from flwr_decaf.clients.models.kept_states import Room
from flwr_decaf.clients.tasks.contract import Task
from flwr_decaf.data.sources import load_rows

if TYPE_CHECKING:
    from flwr_decaf.config import Data, Model


def with_prefixes(task: Task, model: Model, data: Data) -> Task:
    """Add to a task what the settings say about its frozen layers; whole models are unchanged.

    Parameters
    ----------
    task : Task
        A task that has just been built, so that all trained parameters require gradients.
    model : config.Model
        ``dropout``, ``prefix_cache`` and ``prefix_dtype``.
    data : config.Data
        Number of rows, their length, and whether images are augmented.
    """
    if not isinstance(task.model, PeftModel):
        return task
    encoders = [encoder for encoder in find_encoders(task.model) if encoder.frozen]
    frozen = [module for encoder in encoders for module in encoder.prefix]
    mode = partial(train_mode, frozen=frozen, dropout=model.dropout)
    # Without data.name, only the nodes have rows, and their number is unknown.
    rows = sum(map(len, load_rows(data, seed=0).values())) if data.name else 0
    dtype = None if model.prefix_dtype == "auto" else PRECISIONS[model.prefix_dtype]
    room = Room(int(model.prefix_cache * 1e9), rows, data.max_length, dtype)
    prefixes = [
        FrozenPrefix(encoder, room, _is_augmented(encoder, data)).attach()
        for encoder in encoders
        if room.limit
    ]
    return replace(task, train_mode=mode, prefixes=tuple(prefixes))


def train_mode(model: nn.Module, frozen: Sequence[nn.Module], dropout: str) -> None:
    """Put a model with an adapter into training mode.

    Parameters
    ----------
    model : nn.Module
        The model.
    frozen : sequence of nn.Module
        Its modules below the first layer that is trained, and those that contain it.
    dropout : str
        Layers in which the base's own dropout is active: "all", "none", or "adapted", which are
        those from the first trained layer on. ``lora.dropout`` is a separate setting.
    """
    model.train()
    if dropout == "none":
        for name, module in model.named_modules():
            module.training = not name or "lora_dropout" in name
    elif dropout == "adapted":
        for module in frozen:
            module.training = False


def _is_augmented(encoder: Encoder, data: Data) -> bool:
    return encoder.takes_pixels and data.augmentation != "none"


def count_rows(task: Task) -> dict[str, float]:
    """Return and reset the numbers of rows whose hidden states were read and computed.

    Returns
    -------
    dict of str to float
        ``hidden-states-read`` and ``hidden-states-computed``; empty if none are kept.
    """
    if not task.prefixes:
        return {}
    counts = {
        "hidden-states-read": float(sum(prefix.read for prefix in task.prefixes)),
        "hidden-states-computed": float(sum(prefix.computed for prefix in task.prefixes)),
    }
    for prefix in task.prefixes:
        prefix.read = prefix.computed = 0
    return counts


def why_not_kept(task: Task) -> str:
    """Explain in one line why hidden states are not kept on this machine; empty if they are."""
    return "; ".join(prefix.not_kept for prefix in task.prefixes if prefix.not_kept)


def describe(task: Task, model: Model, data: Data) -> str:
    """Describe in one line which layers' results are kept, and why those of others are not."""
    if not isinstance(task.model, PeftModel):
        return ""
    if not model.prefix_cache:
        return "computed in every pass, since model.prefix-cache is 0"
    return "; ".join(_describe(encoder, model, data) for encoder in find_encoders(task.model))


def _describe(encoder: Encoder, model: Model, data: Data) -> str:
    name = type(encoder.root).__name__
    if not encoder.frozen:
        return f"computed in every pass: all of {name}, whose first layer is adapted"
    layers = f"computed once: {encoder.frozen} of the {len(encoder.layers)} of {name}"
    if model.dropout == "all":
        return f"{layers}, in evaluation only, since model.dropout is all"
    if _is_augmented(encoder, data):
        return f"{layers}, in evaluation only, since training images are augmented"
    return layers
