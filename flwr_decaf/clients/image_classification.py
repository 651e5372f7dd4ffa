"""Image classification: a vision encoder with LoRA and a classification head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from transformers import AutoModelForImageClassification

from flwr_decaf.clients.augmentation import AUGMENTATIONS
from flwr_decaf.clients.hardware import to_device
from flwr_decaf.clients.pixels import Pixels, image_processor
from flwr_decaf.clients.pretrained import add_adapter, head_options, load_pretrained
from flwr_decaf.clients.scores import Sums, classification_scores, count_guesses
from flwr_decaf.clients.tasks import Batch, Row, Task, encoded
from flwr_decaf.data.sources import class_names, load_rows, require_columns

if TYPE_CHECKING:
    from flwr_decaf.config import Data, Lora, Model


def build(model: Model, lora: Lora, data: Data) -> Task:
    """Load the base, add LoRA and a head, and say how pictures become batches.

    The head is new and trains with the adapter.

    Raises
    ------
    ValueError
        If the model cannot be loaded, ``lora.target-modules`` matches none of its layers, or the
        data lack the columns.
    """
    rows = load_rows(data, seed=0)["train"]
    require_columns("data.image-column", [data.image_column], rows, data)
    labels = class_names(rows, data, model.task)
    processor, base = load_pretrained(
        model,
        AutoModelForImageClassification,
        readers=(image_processor,),
        ignore_mismatched_sizes=True,  # the head of a model that knows other classes
        **head_options(labels),
    )
    pixels, augment = Pixels.of(processor, model.name), AUGMENTATIONS[data.augmentation]

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        return {"pixels": pixels.encode(batch[data.image_column]), "label": batch["label"]}

    def collate(rows: list[Row]) -> Batch:
        labels = torch.tensor([row["label"] for row in rows])
        return {"pixel_values": pixels.batch(rows), "labels": labels}

    def augmented(rows: list[Row]) -> Batch:
        batch = collate(rows)
        return batch | {"pixel_values": augment(batch["pixel_values"])}

    def tally(model: PeftModel, rows: list[Row], device: torch.device) -> Sums:
        batch = to_device(collate(rows), device)
        output = model(**batch)
        sums = count_guesses(output.logits.argmax(dim=-1).tolist(), batch["labels"].tolist())
        return sums | {"loss": output.loss.item() * len(rows)}

    return Task(
        model=add_adapter(base, lora, head="classifier"),
        encode=lambda rows: encoded(rows, encode, processor.to_json_string(), data.image_column),
        collate=augmented,
        length=lambda rows: [1] * len(rows),
        tally=tally,
        scores=classification_scores,
        labels=tuple(labels),
    )
