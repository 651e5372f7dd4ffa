"""Labelled pictures: from rows to batches, and the task of guessing their class with a head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from flwr_decaf.clients.models.hardware import to_device
from flwr_decaf.clients.tasks.contract import Batch, Task
from flwr_decaf.clients.tasks.scores import Sums, classification_scores, count_guesses
from flwr_decaf.data.augmentation import AUGMENTATIONS
from flwr_decaf.data.encoding import Row, encoded
from flwr_decaf.data.labels import class_names
from flwr_decaf.data.pixels import Pixels
from flwr_decaf.data.sources import load_rows, require_columns

if TYPE_CHECKING:
    from flwr_decaf.config import Data


def picture_labels(data: Data, task: str) -> list[str]:
    """List the classes of a set of pictures.

    Raises
    ------
    ValueError
        In one line, if the set lacks the column of pictures or the classes.
    """
    rows = load_rows(data, seed=0)["train"]
    require_columns("data.image-column", [data.image_column], rows, data)
    return class_names(rows, data, f"model.task = {task}")


class Pictures:
    """The way of pictures and their classes from rows to batches.

    Parameters
    ----------
    processor : BaseImageProcessor
        The model's own.
    name : str
        ``model.name``, for messages.
    data : config.Data
        Columns and augmentation.
    """

    def __init__(self, processor: Any, name: str, data: Data) -> None:
        self._pixels, self._column = Pixels.of(processor, name), data.image_column
        self._augment = AUGMENTATIONS[data.augmentation]
        self.settings = (processor.to_json_string(), data.image_column)

    def encode(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Turn columns of rows into columns pixels and label."""
        return {"pixels": self._pixels.encode(batch[self._column]), "label": batch["label"]}

    def collate(self, rows: list[Row]) -> Batch:
        """Put encoded rows into a batch."""
        labels = torch.tensor([row["label"] for row in rows])
        return {"pixel_values": self._pixels.batch(rows), "labels": labels}

    def augmented(self, batch: Batch) -> Batch:
        """Change a batch's pictures at random, for training."""
        return batch | {"pixel_values": self._augment(batch["pixel_values"])}


def classification(model: nn.Module, pictures: Pictures, labels: list[str]) -> Task:
    """Make a task of a model that takes pixel_values and labels and gives loss and logits."""

    def tally(model: nn.Module, rows: list[Row], device: torch.device) -> Sums:
        batch = to_device(pictures.collate(rows), device)
        output = model(**batch)
        sums = count_guesses(output.logits.argmax(dim=-1).tolist(), batch["labels"].tolist())
        return sums | {"loss": output.loss.item() * len(rows)}

    return Task(
        model=model,
        encode=lambda rows: encoded(rows, pictures.encode, *pictures.settings),
        collate=lambda rows: pictures.augmented(pictures.collate(rows)),
        length=lambda rows: [1] * len(rows),
        tally=tally,
        scores=classification_scores,
        labels=tuple(labels),
    )
