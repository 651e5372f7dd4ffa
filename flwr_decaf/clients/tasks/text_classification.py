"""Text classification: an encoder with LoRA and a classification head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft import TaskType
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from flwr_decaf.clients.models.pretrained import (
    add_adapter,
    fingerprint,
    head_options,
    load_pretrained,
)
from flwr_decaf.clients.tasks.contract import Task
from flwr_decaf.clients.tasks.head import tally
from flwr_decaf.clients.tasks.scores import classification_scores
from flwr_decaf.data.encoding import encoded
from flwr_decaf.data.labels import class_names
from flwr_decaf.data.sources import load_rows
from flwr_decaf.text import split_list

if TYPE_CHECKING:
    from flwr_decaf.config import Data, Lora, Model


def build(model: Model, lora: Lora, data: Data) -> Task:
    """Load the base, and add LoRA and a new head, which is trained with the adapter.

    ``data.text_column`` can name two columns, whose texts are encoded as a pair.

    Raises
    ------
    ValueError
        If the model cannot be loaded, ``lora.target-modules`` matches none of its layers, or the
        data lacks the columns.
    """
    rows = load_rows(data, seed=0)["train"]
    columns = split_list(data.text_column)
    labels = class_names(rows, data, f"model.task = {model.task}")
    tokenizer, base = load_pretrained(
        model,
        AutoModelForSequenceClassification,
        **head_options(labels),
    )
    collator, source = DataCollatorWithPadding(tokenizer), fingerprint(tokenizer)

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, Any]:
        texts = (batch[column] for column in columns)
        tokens = tokenizer(*texts, truncation=True, max_length=data.max_length)
        return {**tokens, "label": batch["label"]}

    return Task(
        model=add_adapter(base, lora, TaskType.SEQ_CLS),
        encode=lambda rows: encoded(rows, tokenize, source, columns, data.max_length),
        collate=lambda rows: dict(collator(rows)),
        length=lambda rows: [len(ids) for ids in rows["input_ids"][:]],
        tally=lambda model, rows, device: tally(model, dict(collator(rows)), device),
        scores=classification_scores,
        labels=tuple(labels),
    )
