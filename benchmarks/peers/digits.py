"""The experiment that every framework runs: its data, model, local steps, mix and log.

It imports only NumPy and PyTorch, since each framework has an environment of its own.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

FOLDER = "BENCHMARK_FOLDER"  # environment variable with the folder of a run
INPUTS, LOG = "inputs.npz", "log.jsonl"
LEARNING_RATE, MOMENTUM = 0.05, 0.9

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Inputs:
    """Images (rows, 1, 8, 8), labels, and the rows of batches (rounds, nodes, steps, rows)."""

    images: torch.Tensor
    labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    batches: torch.Tensor

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return len(self.batches)

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return self.batches.shape[1]


class Net(nn.Module):
    """The CNN of examples/digits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(128, 10),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (batch, 1, 8, 8) to logits (batch, 10)."""
        logits: torch.Tensor = self.layers(x)
        return logits


@functools.cache
def inputs() -> Inputs:
    """Read the inputs of the run, once per process, and limit PyTorch to one thread."""
    torch.set_num_threads(1)
    with np.load(Path(os.environ[FOLDER]) / INPUTS) as arrays:
        return Inputs(**{name: torch.from_numpy(arrays[name]) for name in arrays})


def initial_model() -> Net:
    """Create the model that all nodes start from."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


def train(model: Net, node: int, finished: int) -> None:
    """Take a node's local steps of a round by SGD with new momentum, and note when they end.

    Parameters
    ----------
    model : Net
        Model, trained in place.
    node, finished : int
        The node, and the number of rounds before this one.
    """
    data = inputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    model.train()
    for step, rows in enumerate(data.batches[finished, node]):
        loss = nn.functional.cross_entropy(model(data.images[rows]), data.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not finished and not step:
            note(started=node)
    note(node=node, trained=finished)


@torch.no_grad()
def note_accuracy(model: Net, node: int) -> None:
    """Note the accuracy of a node's last model on the common test rows."""
    data = inputs()
    model.eval()
    right = model(data.test_images).argmax(dim=1) == data.test_labels
    note(node=node, accuracy=right.double().mean().item())


def note(**entry: float) -> None:
    """Append an entry with the time to the log of the run; several processes may do so at once."""
    line = json.dumps({"at": time.time(), **entry}) + "\n"
    with (Path(os.environ[FOLDER]) / LOG).open("ab", buffering=0) as log:
        log.write(line.encode())


def neighbours(node: int, nodes: int) -> list[int]:
    """List the neighbours of a node on a ring of at least three nodes."""
    return [(node - 1) % nodes, (node + 1) % nodes]


def average(states: list[Mapping[str, torch.Tensor]]) -> State:
    """Average states with equal weights; integers, which count batches, are those of the first."""
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[0].items()
    }
