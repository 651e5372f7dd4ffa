"""Image classification: a vision encoder with LoRA and a classification head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import AutoModelForImageClassification

from flwr_decaf.clients.models.pretrained import add_adapter, head_options, load_pretrained
from flwr_decaf.clients.tasks.contract import Task
from flwr_decaf.clients.tasks.pictures import Pictures, classification, picture_labels
from flwr_decaf.data.pixels import image_processor

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
    labels = picture_labels(data, model.task)
    processor, base = load_pretrained(
        model,
        AutoModelForImageClassification,
        readers=(image_processor,),
        ignore_mismatched_sizes=True,  # the head of a model that knows other classes
        **head_options(labels),
    )
    adapted = add_adapter(base, lora, head="classifier")
    return classification(adapted, Pictures(processor, model.name, data), labels)
