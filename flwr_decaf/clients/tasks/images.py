"""Labelled images: encoding, batches, and the task of classifying them with a head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from flwr_decaf.clients.tasks.contract import Batch, Task
from flwr_decaf.clients.tasks.head import tally
from flwr_decaf.clients.tasks.scores import classification_scores
from flwr_decaf.data.augmentation import AUGMENTATIONS
from flwr_decaf.data.encoding import Row, encoded
from flwr_decaf.data.labels import class_names
from flwr_decaf.data.pixels import Pixels
from flwr_decaf.data.sources import load_rows

if TYPE_CHECKING:
    from flwr_decaf.config import Data


def image_labels(data: Data, task: str) -> list[str]:
    """List the classes of a data set of images.

    Raises
    ------
    ValueError
        If the data set has no classes.
    """
    rows = load_rows(data, seed=0)["train"]
    return class_names(rows, data, f"model.task = {task}")


class ImageBatches:
    """Converts rows of images and classes to batches.

    Parameters
    ----------
    processor : BaseImageProcessor
        The model's own image processor.
    name : str
        ``model.name``, for error messages.
    data : config.Data
        Columns and augmentation.
    """

    def __init__(self, processor: Any, name: str, data: Data) -> None:
        self._pixels, self._column = Pixels.of(processor, name), data.image_column
        self._augment = AUGMENTATIONS[data.augmentation]
        self.settings = (processor.to_json_string(), data.image_column)

    def encode(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Encode the columns of rows as columns "pixels" and "label"."""
        return {"pixels": self._pixels.encode(batch[self._column]), "label": batch["label"]}

    def collate(self, rows: list[Row]) -> Batch:
        """Collate encoded rows to a batch."""
        labels = torch.tensor([row["label"] for row in rows])
        return {"pixel_values": self._pixels.batch(rows), "labels": labels}

    def augmented(self, batch: Batch) -> Batch:
        """Augment the images of a batch at random, for training."""
        return batch | {"pixel_values": self._augment(batch["pixel_values"])}


def classification(model: nn.Module, images: ImageBatches, labels: list[str]) -> Task:
    """Build the task of a model that takes pixel_values and labels and returns loss and logits."""
    return Task(
        model=model,
        encode=lambda rows: encoded(rows, images.encode, *images.settings),
        collate=lambda rows: images.augmented(images.collate(rows)),
        length=lambda rows: [1] * len(rows),
        tally=lambda model, rows, device: tally(model, images.collate(rows), device),
        scores=classification_scores,
        labels=tuple(labels),
    )
