"""Evaluation of models with a classification head."""

from __future__ import annotations

import torch
from torch import nn

from flwr_decaf.clients.models.hardware import to_device
from flwr_decaf.clients.tasks.contract import Batch
from flwr_decaf.clients.tasks.scores import Sums, count_guesses


def tally(model: nn.Module, batch: Batch, device: torch.device) -> Sums:
    """Count the predicted classes of a batch, and sum the loss over its rows."""
    output = model(**to_device(batch, device))
    labels = batch["labels"].tolist()
    sums = count_guesses(output.logits.argmax(dim=-1).tolist(), labels)
    return sums | {"loss": output.loss.item() * len(labels)}
