"""The frozen prefix, computed once: training and evaluation compared with a bare PyTorch loop.

    python -m benchmarks.prefix

One thread trains and evaluates MiniLM with the settings of conf/methods.toml, which adapt the upper
three of six layers, in three ways: in a bare loop; in the same loop without dropout in the frozen
layers; and as on a node, with stored hidden states. "first pass" is the time with rows that are all
new, so that they are computed and written; "first use" is what a process needs once to open the
file and check the result. All times are CPU times of the process, which other jobs on the machine
affect less than wall time.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from unittest import mock

import torch

from benchmarks.measure import busy_cores, report, time_alternately
from flwr_decaf.clients.loading import forget_task, load_node_data, load_task
from flwr_decaf.clients.models import kept_states
from flwr_decaf.clients.models.adapter import initialize_adapter
from flwr_decaf.clients.steps import take_steps
from flwr_decaf.clients.tasks.contract import Task
from flwr_decaf.clients.training import evaluate_rows, training_batches
from flwr_decaf.config import Config, Train, parse_config
from flwr_decaf.config.files import checked_settings

CONF = Path(__file__).parents[1] / "conf" / "methods.toml"
NODES, STEPS, REPEATS = 10, 8, 7


def config_of(**settings: object) -> Config:
    """Read the settings of one of the file's runs."""
    one_run = ["strategy=decaf", "seeds=", "sweep=", f"train.local-steps={STEPS}"]
    changed = [f"{key.replace('__', '.').replace('_', '-')}={x}" for key, x in settings.items()]
    return parse_config(checked_settings(CONF, [*one_run, *changed], n=NODES))


def bare_steps(task: Task, batches: list[dict[str, torch.Tensor]], train: Train) -> None:
    """Train as a plain PyTorch loop does."""
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=train.learning_rate)
    task.train_mode(task.model)
    for batch in batches:
        loss = task.model(**batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()


def loaded(**settings: object) -> Task:
    """Build a task of its own for each way."""
    config = config_of(**settings)
    forget_task()
    task = load_task(config.model, config.lora, config.data)
    initialize_adapter(task.model, seed=0)
    return task


def main() -> None:
    """Measure steps and evaluations alternately."""
    busy = busy_cores()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        own = mock.Mock(return_value=Path(folder))
        with mock.patch.object(kept_states, "private_folder", own):
            report(
                "prefix",
                "MiniLM's upper half, one thread, milliseconds of CPU time",
                measure(Path(folder)),
                busy,
            )


def measure(folder: Path) -> list[dict[str, object]]:
    """Time a step, and an evaluation per row."""
    config = config_of()
    bare = loaded(model__dropout="all", model__prefix_cache=0)
    frozen_off = loaded(model__prefix_cache=0)
    ours = loaded()
    data = load_node_data(config.model, config.lora, config.data, config.seed, 0, NODES)
    batches = list(training_batches(ours, data.train, config.train, seed=0, server_round=1))
    bare_steps(bare, batches[:1], config.train)  # a warm-up
    started = time.process_time()
    take_steps(ours, batches[:1], config.train, "AB")
    opening = time.process_time() - started
    (file,) = folder.glob("*.sqlite")

    def without_rows(act: Callable[[], object]) -> None:
        with closing(sqlite3.connect(file, isolation_level=None)) as rows:
            rows.execute("DELETE FROM rows")
        act()

    def train() -> object:
        return take_steps(ours, batches, config.train, "AB")

    def evaluate() -> object:
        return evaluate_rows(ours, data.test, config.train)

    steps = {
        "bare loop": lambda: bare_steps(bare, batches, config.train),
        "no dropout below": lambda: bare_steps(frozen_off, batches, config.train),
        "first pass": lambda: without_rows(train),
        "ours": train,
    }
    scores = {
        "bare loop": lambda: evaluate_rows(bare, data.test, config.train),
        "first pass": lambda: without_rows(evaluate),
        "ours": evaluate,
    }
    step = compared(steps, count=len(batches))
    return [
        {
            "what": "a step of 8 x 24 tokens",
            **step,
            "first use": 1000 * opening - step["first pass"],
        },
        {"what": "evaluation, a row", **compared(scores, count=len(data.test))},
    ]


def compared(ways: Mapping[str, Callable[[], object]], count: int) -> dict[str, float]:
    """Time each way alternately: milliseconds for one of ``count`` parts, and ratios."""
    seconds = time_alternately(ways, repeats=REPEATS, clock=time.process_time)
    times = {way: 1000 * taken / count for way, taken in seconds.items()}
    bare = times["bare loop"]
    return {
        **times,
        "bare / ours": bare / times["ours"],
        "first / bare": times["first pass"] / bare,
    }


if __name__ == "__main__":
    main()
