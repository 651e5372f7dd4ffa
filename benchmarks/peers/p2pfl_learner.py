"""A model and a learner for p2pfl in plain PyTorch; run in p2pfl's environment.

p2pfl's own learner creates two Lightning trainers per node and round, which takes longer than the
steps, and it has an order of batches of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from p2pfl.learning.frameworks import Framework
from p2pfl.learning.frameworks.learner import Learner
from p2pfl.learning.frameworks.p2pfl_model import P2PFLModel

from benchmarks.peers import digits


class DigitsModel(P2PFLModel):
    """The CNN, whose parameters are the arrays of its state dict."""

    def get_parameters(self) -> list[Any]:
        """Copy the arrays, since p2pfl keeps them while the model trains on."""
        return [tensor.numpy().copy() for tensor in self.model.state_dict().values()]

    def set_parameters(self, params: list[Any] | bytes) -> None:
        """Load arrays, or a message that contains them."""
        if isinstance(params, bytes):
            params, info = self.decode_parameters(params)
            self.additional_info.update(info)
        names = self.model.state_dict()
        arrays = zip(names, params, strict=True)
        self.model.load_state_dict({name: torch.as_tensor(array) for name, array in arrays})

    def get_framework(self) -> str:
        """Return the name of the framework."""
        return str(Framework.PYTORCH.value)


class DigitsLearner(Learner):
    """A node's local steps; evaluation is left to the benchmark.

    Parameters
    ----------
    node : int
        The node.
    """

    def __init__(self, node: int) -> None:
        super().__init__()
        self.node, self.finished = node, 0

    def fit(self) -> P2PFLModel:
        """Take the steps of the next round."""
        model, rows = self.get_model(), digits.inputs().batches[self.finished, self.node]
        digits.train(model.get_model(), self.node, self.finished)
        model.set_contribution([self.addr], rows.numel())
        self.finished += 1
        return model

    def interrupt_fit(self) -> None:
        """Do nothing, because a round takes less than a second."""

    def evaluate(self) -> dict[str, float]:
        """Measure nothing."""
        return {}

    def get_framework(self) -> str:
        """Return the name of the framework."""
        return str(Framework.PYTORCH.value)
