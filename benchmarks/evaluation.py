"""The cost of evaluation: order of the rows, batch size, and its share of a run.

    python -m benchmarks.evaluation

MiniLM with LoRA scores 400 posts of at most 48 tokens on one thread. The first table compares
batches of similar length, as a node uses them, with batches in the order of the rows; then these
rows and the 50 of a node's own test one after the other with all of them in one pass (which could
not separate the two scores). The second table gives the share of the nodes' time that evaluation
takes if all nodes, or three in ten, are evaluated after each round of 8 steps (of 8 x 24 tokens).
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import torch
from datasets import concatenate_datasets
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp import Grid

from benchmarks import simulated
from benchmarks.measure import busy_cores, report, time_alternately
from flwr_decaf.clients.loading import load_node_data, load_task
from flwr_decaf.clients.models.adapter import initialize_adapter
from flwr_decaf.clients.training import evaluate_rows
from flwr_decaf.config import Config, Train, flatten, parse_config
from flwr_decaf.messages.metrics import mean_metrics, metrics_of
from flwr_decaf.strategies import DeCAF
from flwr_decaf.strategies.relay.roll_call import roll_call

NODES, ROUNDS = 10, 4
SETTINGS = {
    "train.batch-size": 8, "data.max-length": 24, "data.max-test-samples": 150,
    "data.max-local-test-samples": 20,
}  # fmt: skip


def orders() -> list[dict[str, object]]:
    """Time one pass over a test set in several ways."""
    torch.set_num_threads(1)
    config = Config()
    task = load_task(config.model, config.lora, config.data)
    initialize_adapter(task.model, seed=0)
    data = load_node_data(config.model, config.lora, config.data, seed=0, node=0, n=NODES)
    rows = data.test
    both = concatenate_datasets([data.test, data.local_test])
    as_they_come = replace(task, length=lambda rows: [0] * len(rows))
    ways = {
        "in order, 16": lambda: evaluate_rows(as_they_come, rows, Train(batch_size=16)),
        "by length, 8": lambda: evaluate_rows(task, rows, Train(batch_size=8)),
        "by length, 16": lambda: evaluate_rows(task, rows, Train(batch_size=16)),
        "by length, 64": lambda: evaluate_rows(task, rows, Train(batch_size=64)),
        "by length, 16, bf16": lambda: evaluate_rows(task, rows, Train(precision="bf16")),
        "common and own test, one after the other": lambda: (
            evaluate_rows(task, data.test, Train(batch_size=16)),
            evaluate_rows(task, data.local_test, Train(batch_size=16)),
        ),
        "common and own test, one pass": lambda: evaluate_rows(task, both, Train(batch_size=16)),
    }
    seconds = time_alternately(ways, repeats=3)
    slowest = seconds["in order, 16"]
    return [
        {"way": way, "seconds": taken, "in order / this": slowest / taken}
        for way, taken in seconds.items()
    ]


def serve(grid: Grid, fraction: float) -> dict[str, float]:
    """Sum the seconds that the nodes report."""
    roll_call(grid)
    config = parse_config(SETTINGS)
    spent = {"train-seconds": 0.0, "evaluate-seconds": 0.0, "mixing-seconds": 0.0}

    def adding(contents: list[RecordDict], key: str) -> MetricRecord:
        for content in contents:
            for name, value in metrics_of(content).items():
                if name in spent and isinstance(value, float):
                    spent[name] += value
        return mean_metrics(contents, key)

    strategy = DeCAF(
        "ring",
        evaluate_fraction=fraction,
        train_metrics_aggr_fn=adding,
        evaluate_metrics_aggr_fn=adding,
    )
    task = load_task(config.model, config.lora, config.data)
    settings = ConfigRecord({"settings": json.dumps(flatten(config))})
    strategy.start(
        grid,
        ArrayRecord(initialize_adapter(task.model, seed=0)),
        num_rounds=ROUNDS,
        train_config=settings,
        evaluate_config=settings,
    )
    return spent


def shares() -> list[dict[str, Any]]:
    """Run a simulation for each fraction of nodes."""
    rows = []
    for fraction in (1.0, 0.3):
        spent = simulated.measured("benchmarks.evaluation", fraction=fraction)
        total = sum(spent.values())
        rows.append(
            {"evaluate-fraction": fraction}
            | {f"{name.removesuffix('-seconds')}-%": 100 * s / total for name, s in spent.items()}
            | {"seconds": total}
        )
    return rows


def main() -> None:
    """Measure both tables."""
    busy = busy_cores()
    report("evaluation", "Scoring 400 posts, one thread", orders(), busy)
    report("evaluation-share", "The nodes' seconds in four rounds", shares(), busy)


if __name__ == "__main__":
    if sys.argv[1:]:
        arguments = json.loads(sys.argv[1])
        simulated.run(lambda grid: serve(grid, **arguments), "peers", NODES)
    else:
        main()
