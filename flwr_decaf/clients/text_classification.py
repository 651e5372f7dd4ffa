"""Text classification: an encoder with LoRA and a classification head, by transformers and PEFT."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding
from transformers.utils import logging as transformers_logging

from flwr_decaf.clients.tasks import Batch, Task
from flwr_decaf.data.sources import load_texts, resolve_path
from flwr_decaf.text import first_line, split_list

if TYPE_CHECKING:
    from flwr_decaf.config import Data, Lora, Model

transformers_logging.set_verbosity_error()  # "newly initialized: classifier" is meant here
transformers_logging.disable_progress_bar()


def build(model: Model, lora: Lora, data: Data) -> Task:
    """Load the base, add LoRA and a head, and say how texts become batches.

    The head is new and trains with the adapter.

    Raises
    ------
    ValueError
        If the model cannot be loaded, or ``lora.target-modules`` matches none of its layers.
    """
    labels = load_texts(data, seed=0)["train"].features["label"].names
    try:
        folder = resolve_path(model.name)
        if folder.startswith(("/", ".", "~")) and not Path(folder).is_dir():
            raise FileNotFoundError(f"no such folder: {folder}")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        base = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: number for number, label in enumerate(labels)},
        )
    except (OSError, ValueError, FileNotFoundError) as error:
        raise ValueError(
            "model.name must be a hub id, a folder of a transformers model, or package:NAME/FOLDER;"
            f" got {model.name!r}, which cannot be loaded ({first_line(error)}); check the "
            "spelling and the network"
        ) from error
    collator = DataCollatorWithPadding(tokenizer)

    def encode(rows: Dataset) -> Dataset:
        def tokenize(batch: dict[str, list[Any]]) -> dict[str, Any]:
            texts = (batch[column] for column in ("text", "text_pair") if column in batch)
            encoded = tokenizer(*texts, truncation=True, max_length=data.max_length)
            return {**encoded, "label": batch["label"]}

        # The fingerprint names the result, so that all actors and later runs find it on disk.
        name = f"{rows._fingerprint}-{folder}-{data.max_length}"
        return rows.map(
            tokenize, batched=True, remove_columns=rows.column_names, new_fingerprint=_digest(name)
        )

    return Task(
        model=add_adapter(base, lora),
        encode=encode,
        collate=lambda rows: dict(collator(rows)),
        length=lambda rows: [len(ids) for ids in rows["input_ids"]],
        score=_count_right,
        labels=tuple(labels),
    )


def add_adapter(base: torch.nn.Module, lora: Lora) -> PeftModel:
    """Inject LoRA into a base.

    Raises
    ------
    ValueError
        If no layer of the base is called one of ``lora.target-modules``.
    """
    targets = split_list(lora.target_modules)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT still asks for a renamed property
            return get_peft_model(
                base,
                LoraConfig(
                    task_type=TaskType.SEQ_CLS,
                    r=lora.rank,
                    lora_alpha=lora.alpha,
                    lora_dropout=lora.dropout,
                    target_modules=targets or None,
                ),
            )
    except ValueError as error:
        leaves = {
            name.rsplit(".", 1)[-1]
            for name, module in base.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        raise ValueError(
            f"lora.target-modules must name layers of the model; got {lora.target_modules!r}; "
            f"take some of its linear layers: {', '.join(sorted(leaves - {''}))}"
        ) from error


def _count_right(output: Any, batch: Batch) -> int:
    return int((output.logits.argmax(dim=-1) == batch["labels"]).sum())


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
