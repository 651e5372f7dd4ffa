"""Adapters on half-precision bases, with small random weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from peft import TaskType
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from flwr_decaf.clients.models.adapter import digest, get_adapter, initialize_adapter
from flwr_decaf.clients.models.pretrained import add_adapter
from flwr_decaf.clients.tasks.contract import Task
from flwr_decaf.clients.training import evaluate_rows, train_locally
from flwr_decaf.config import Lora, Train

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2}
TOKENS = {"vocab_size": 30, "max_position_embeddings": 12}
LORA = Lora(rank=2, target_modules="query,value")


def bert(dtype, extra=""):
    base = BertForSequenceClassification(BertConfig(**SMALL, **HEADS, **TOKENS, num_labels=3))
    return add_adapter(base.to(dtype), replace(LORA, modules_to_save=extra), TaskType.SEQ_CLS)


def vit(dtype):
    config = ViTConfig(**SMALL, **HEADS, image_size=8, patch_size=4, num_labels=3)
    lora = replace(LORA, target_modules="q_proj,v_proj")
    return add_adapter(ViTForImageClassification(config).to(dtype), lora, head="classifier")


def llama(dtype, extra):
    config = LlamaConfig(**SMALL, **HEADS, **TOKENS, tie_word_embeddings=False)
    lora = replace(LORA, target_modules="q_proj,v_proj", modules_to_save=extra)
    return add_adapter(LlamaForCausalLM(config).to(dtype), lora, TaskType.CAUSAL_LM)


def token_rows(count, classes):
    ids = torch.randint(0, 30, (count, 10), generator=torch.Generator().manual_seed(0)).tolist()
    labels = [each[0] % 3 for each in ids] if classes else ids
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def picture_rows(count):
    pixels = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Dataset.from_dict({"pixel_values": pixels.tolist(), "labels": [0, 1, 2] * (count // 3)})


MODELS = {
    "bert": (bert, token_rows(24, classes=True)),
    "bert-pooler": (lambda dtype: bert(dtype, "pooler"), token_rows(24, classes=True)),
    "vit": (vit, picture_rows(24)),
    "llama-embedding": (lambda dtype: llama(dtype, "embed_tokens"), token_rows(24, classes=False)),
    "llama-norm-head": (lambda dtype: llama(dtype, "norm,lm_head"), token_rows(24, classes=False)),
}


def collate(rows):
    return {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}


def tally(model, rows, device):
    return {"loss": model(**collate(rows)).loss.item() * len(rows), "rows": len(rows)}


def task_of(name, dtype):
    build, rows = MODELS[name]
    torch.manual_seed(0)
    model = build(dtype)
    initialize_adapter(model, seed=0)
    length = lambda rows: [1] * len(rows)  # noqa: E731
    scores = lambda sums: {"loss": sums["loss"] / sums["rows"]}  # noqa: E731
    return Task(model, lambda rows: rows, collate, length, tally, scores), rows


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("dtype", "precision"), [("bf16", "fp32"), ("bf16", "bf16"), ("fp16", "fp32"), ("fp16", "fp16")]
)
def test_trainable_parameters_are_fp32_on_a_half_precision_base(name, dtype, precision):
    task, rows = task_of(name, HALF[dtype])
    train = Train(local_steps=20, batch_size=8, learning_rate=1e-2, precision=precision)
    before, held = evaluate_rows(task, rows, train), digest(task.model)
    base = {k: p.clone() for k, p in task.model.named_parameters() if not p.requires_grad}
    losses = train_locally(task, rows, train, "AB", seed=0)
    assert {x.dtype for x in get_adapter(task.model).values()} == {torch.float32}
    assert digest(task.model) != held
    assert evaluate_rows(task, rows, train)["loss"] < before["loss"]
    assert losses["train-loss"] < before["loss"] + 0.05
    after = dict(task.model.named_parameters())
    assert all(torch.equal(p, after[k]) and p.dtype == HALF[dtype] for k, p in base.items())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", HALF)
def test_a_half_precision_base_computes_nearly_the_same_as_an_fp32_base(name, dtype):
    losses = []
    for chosen in (torch.float32, HALF[dtype]):
        task, rows = task_of(name, chosen)
        losses.append(evaluate_rows(task, rows, Train())["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_logits_of_a_trained_head_are_not_rounded():
    task, rows = task_of("bert", torch.bfloat16)
    assert task.model(**collate(list(rows))).logits.dtype == torch.float32


@pytest.mark.parametrize("name", MODELS)
def test_gradient_checkpointing_does_not_change_what_is_trained(name):
    states = []
    for checkpointing in (False, True):
        task, rows = task_of(name, torch.float32)
        train = Train(local_steps=3, batch_size=8, gradient_checkpointing=checkpointing)
        train_locally(task, rows, train, "AB", seed=0)
        states.append(get_adapter(task.model))
    for key, x in states[0].items():
        torch.testing.assert_close(states[1][key], x, atol=1e-6, rtol=1e-4)
