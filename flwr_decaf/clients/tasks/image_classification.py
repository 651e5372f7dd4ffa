"""Image classification: a vision encoder with LoRA and a classification head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import AutoModelForImageClassification

from flwr_decaf.clients.models.pretrained import add_adapter, head_options, load_pretrained
from flwr_decaf.clients.tasks.contract import Task
from flwr_decaf.clients.tasks.images import ImageBatches, classification, image_labels
from flwr_decaf.data.pixels import image_processor

if TYPE_CHECKING:
    from flwr_decaf.config import Data, Lora, Model


def build(model: Model, lora: Lora, data: Data) -> Task:
    """Load the base, and add LoRA and a new head, which is trained with the adapter.

    Raises
    ------
    ValueError
        If the model cannot be loaded, ``lora.target-modules`` matches none of its layers, or the
        data lacks the columns.
    """
    labels = image_labels(data, model.task)
    processor, base = load_pretrained(
        model,
        AutoModelForImageClassification,
        readers=(image_processor,),
        ignore_mismatched_sizes=True,  # the base may have a head for other classes
        **head_options(labels),
    )
    adapted = add_adapter(base, lora, head="classifier")
    return classification(adapted, ImageBatches(processor, model.name, data), labels)
