"""MiniLM on a quantized base, in a process with bitsandbytes; prints the results as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel

from flwr_decaf.clients.loading import load_node_data, load_task
from flwr_decaf.clients.models.adapter import get_adapter, initialize_adapter
from flwr_decaf.clients.training import evaluate_rows, train_locally
from flwr_decaf.config import Data, Lora, Model, Train

TRAIN = Train(local_steps=12, batch_size=8)
LORA = Lora(rank=4)
DATA = Data(classes="rec.autos, sci.med", max_train_samples=100, max_test_samples=40, max_length=24)


def main(quantization: str, folder: Path) -> None:
    model = Model(quantization=quantization)
    task, plain = load_task(model, LORA, DATA), load_task(Model(), LORA, DATA)
    start = initialize_adapter(task.model, seed=0)
    rows = load_node_data(model, LORA, DATA, seed=0, node=0, n=2)
    before = evaluate_rows(task, rows.test, TRAIN)
    train_locally(task, rows.train, TRAIN, "AB", seed=0)
    trained = {name: x.clone() for name, x in get_adapter(task.model).items()}
    task.model.save_pretrained(folder)
    # Loaded on its own base, the adapter must score the same; on the plain base, nearly the same.
    scores = [evaluate_rows(task, rows.test, TRAIN)]
    for base in (task, plain):
        bare = base.model.unload()
        loaded = PeftModel.from_pretrained(bare, folder)
        scores.append(evaluate_rows(replace(base, model=loaded), rows.test, TRAIN))
    results = {
        "linear": type(bare_linear(task)).__name__,
        "dtypes": sorted({str(x.dtype) for x in trained.values()}),
        "moved": all(not torch.equal(x, trained[name]) for name, x in start.items()),
        "before": before,
        "trained, on its base, on the plain base": scores,
    }
    print(json.dumps(results))


def bare_linear(task):
    """Get the query layer of the first attention; unload() has restored the base's own layer."""
    return next(m for n, m in task.model.named_modules() if n.endswith("query"))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
