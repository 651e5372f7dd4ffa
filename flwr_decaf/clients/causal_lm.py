"""Causal language models with LoRA: the loss is on the response alone.

Where the response is the row's class, ``data.response = "{label}"``, a scored row's guess is the
class whose name the model finds the likeliest response: the sum of log p over its tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import PeftModel, TaskType
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq

from flwr_decaf.clients.dialogue import Dialogue, Tokens
from flwr_decaf.clients.hardware import to_device
from flwr_decaf.clients.pretrained import add_adapter, load_pretrained
from flwr_decaf.clients.scores import Sums, count_guesses, language_scores
from flwr_decaf.clients.tasks import Batch, Row, Task, encoded
from flwr_decaf.data.sources import load_rows

if TYPE_CHECKING:
    from flwr_decaf.config import Data, Lora, Model

_IGNORED = -100  # a target that transformers leave out of the loss
Collate = Callable[[list[Row]], Batch]


def build(model: Model, lora: Lora, data: Data) -> Task:
    """Load the base, add LoRA, and say how rows become prompts and responses.

    Raises
    ------
    ValueError
        If the model cannot be loaded, ``lora.target-modules`` matches none of its layers, or the
        data lack the columns.
    """
    rows = load_rows(data, seed=0)["train"]
    labels = rows.features["label"].names if data.label_column else []
    tokenizer, base, folder = load_pretrained(model, AutoModelForCausalLM)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    dialogue = Dialogue(tokenizer, data, labels)
    dialogue.check(rows)
    choices = dialogue.choices()
    collate = _padded(tokenizer)
    settings = data.prompt, data.response, data.messages_column, data.max_length
    return Task(
        model=add_adapter(base, lora, TaskType.CAUSAL_LM),
        encode=lambda rows: encoded(rows, _tokenizer(dialogue, choices), folder, *settings),
        collate=collate,
        length=_lengths,
        tally=lambda model, rows, device: _tally(model, rows, device, collate, choices),
        scores=language_scores,
        labels=tuple(labels),
    )


def _tokenizer(
    dialogue: Dialogue, choices: list[Tokens]
) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
    room = max(map(len, choices), default=0)

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = (dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True))
        prompts, responses = zip(*(dialogue.encode(row, room) for row in rows), strict=True)
        told = {"label": batch["label"]} if choices else {}
        return {"prompt": list(prompts), "response": list(responses), **told}

    return tokenize


def _padded(tokenizer: Any) -> Collate:
    pad = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=_IGNORED)

    def collate(rows: list[Row]) -> Batch:
        return dict(
            pad(
                [
                    {
                        "input_ids": row["prompt"] + row["response"],
                        "attention_mask": [1] * (len(row["prompt"]) + len(row["response"])),
                        "labels": [_IGNORED] * len(row["prompt"]) + row["response"],
                    }
                    for row in rows
                ]
            )
        )

    return collate


def _lengths(rows: Dataset) -> list[int]:
    pairs = zip(rows["prompt"], rows["response"], strict=True)
    return [len(prompt) + len(response) for prompt, response in pairs]


def _tally(
    model: PeftModel, rows: list[Row], device: torch.device, collate: Collate, choices: list[Tokens]
) -> Sums:
    surprise, tokens = _surprise(model, to_device(collate(rows), device))
    sums: Sums = {"surprise": float(surprise.sum()), "tokens": tokens}
    if not choices:
        return sums
    # One class at a time: the logits of a vocabulary take memory.
    tried = (collate([row | {"response": choice} for row in rows]) for choice in choices)
    each = torch.stack([_surprise(model, to_device(batch, device))[0] for batch in tried])
    return sums | count_guesses(each.argmin(dim=0).tolist(), [row["label"] for row in rows])


def _surprise(model: PeftModel, batch: Batch) -> tuple[Tensor, int]:
    """Sum up -log p over the tokens of each row's response: shape (rows,); and count them."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    targets = batch["labels"][:, 1:]
    each = cross_entropy(
        logits[:, :-1].float().transpose(1, 2), targets, ignore_index=_IGNORED, reduction="none"
    )
    return each.sum(dim=1), int((targets != _IGNORED).sum())
