"""Causal language models with LoRA: the loss is computed only on the tokens of the response.

If the response is the class of the row (``data.response = "{label}"``), the predicted class is the
one whose name is the most likely response: the one with the largest sum of log p over its tokens.
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

from flwr_decaf.clients.models.hardware import to_device
from flwr_decaf.clients.models.pretrained import add_adapter, fingerprint, load_pretrained
from flwr_decaf.clients.tasks.contract import Batch, Task
from flwr_decaf.clients.tasks.scores import Sums, count_guesses, language_scores
from flwr_decaf.data.dialogue import Dialogue, Tokens
from flwr_decaf.data.encoding import Row, encoded
from flwr_decaf.data.sources import load_rows

if TYPE_CHECKING:
    from flwr_decaf.config import Data, Lora, Model

_IGNORED = -100  # a target that transformers excludes from the loss
Collate = Callable[[list[Row]], Batch]


def build(model: Model, lora: Lora, data: Data) -> Task:
    """Load the base and add LoRA; rows are encoded as prompts and responses.

    Raises
    ------
    ValueError
        If the model cannot be loaded, ``lora.target-modules`` matches none of its layers, or the
        data lacks the columns.
    """
    rows = load_rows(data, seed=0)["train"]
    labels = rows.features["label"].names if data.label_column else []
    tokenizer, base = load_pretrained(model, AutoModelForCausalLM)
    _check_causal(model, tokenizer, base)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    dialogue = Dialogue(tokenizer, data, labels)
    choices = dialogue.choices()
    collate = _padded(tokenizer)
    settings = (
        fingerprint(tokenizer), data.prompt, data.response, data.messages_column, data.max_length
    )  # fmt: skip
    return Task(
        model=add_adapter(base, lora, TaskType.CAUSAL_LM),
        encode=lambda rows: encoded(rows, _tokenizer(dialogue, choices), *settings),
        collate=collate,
        length=_lengths,
        tally=lambda model, rows, device: _tally(model, rows, device, collate, choices),
        scores=language_scores,
        labels=tuple(labels),
    )


def _check_causal(model: Model, tokenizer: Any, base: Any) -> None:
    # Encoders have this flag; transformers would load them as language models without a mask.
    encoder = hasattr(base.config, "is_decoder") and not base.config.is_decoder
    if encoder or tokenizer.eos_token is None:
        raise ValueError(
            "model.name must be a causal language model with model.task = causal-lm; got "
            f"{model.name!r}, which is a {base.config.model_type} encoder or has no end token; use "
            "e.g. a Llama, Qwen or GPT model"
        )


def _tokenizer(
    dialogue: Dialogue, choices: list[Tokens]
) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
    room = max(map(len, choices), default=0)

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = (dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True))
        prompts, responses = zip(*(dialogue.encode(row, room) for row in rows), strict=True)
        labels = {"label": batch["label"]} if choices else {}
        return {"prompt": list(prompts), "response": list(responses), **labels}

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
    pairs = zip(rows["prompt"][:], rows["response"][:], strict=True)
    return [len(prompt) + len(response) for prompt, response in pairs]


def _tally(
    model: PeftModel, rows: list[Row], device: torch.device, collate: Collate, choices: list[Tokens]
) -> Sums:
    tokens = sum(len(row["response"]) for row in rows)
    if not choices:
        nll = _negative_log_likelihood(model, to_device(collate(rows), device))
        return {"nll": float(nll.sum()), "tokens": tokens}
    # One class at a time, since logits over the vocabulary take much memory.
    batches = (collate([row | {"response": choice} for row in rows]) for choice in choices)
    each = torch.stack(
        [_negative_log_likelihood(model, to_device(batch, device)) for batch in batches]
    )
    truths = [row["label"] for row in rows]
    nll = each[truths, range(len(rows))]
    guesses = count_guesses(each.argmin(dim=0).tolist(), truths)
    return {"nll": float(nll.sum()), "tokens": tokens, **guesses}


def _negative_log_likelihood(model: PeftModel, batch: Batch) -> Tensor:
    """Sum -log p over the tokens of each row's response: shape (rows,)."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    targets = batch["labels"][:, 1:]
    scored = targets != _IGNORED  # a copy of all logits in fp32 would take the most memory
    each = cross_entropy(logits[:, :-1][scored].float(), targets[scored], reduction="none")
    rows = scored.nonzero()[:, 0]
    return torch.zeros(len(targets), device=each.device).index_add(0, rows, each)
