"""The rounds of a simulation, compared with the same steps in a bare PyTorch loop.

    python -m benchmarks.engine

Ten nodes of MiniLM with LoRA train 8 steps per round on two cores:

* ``bare``: two processes of one thread each, with the model and the batches in memory. Each trains
  five nodes, loading their adapters and creating new optimizers, as a node does.
* ``ours``: DeCAF on a ring through Flower and Ray.
* ``reloading``: Flower's FedAvg with a client that reloads the base in every call, as
  FlowerTune's example does.

Each is measured with batches of 16 x 48 tokens and of 8 x 24 tokens, which are a sixth of the work
and show the overhead around the steps.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from multiprocessing import get_context
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flwr_strategy

from benchmarks import simulated
from benchmarks.measure import busy_cores, report, timed_rounds
from flwr_decaf.clients.loading import load_node_data, load_task
from flwr_decaf.clients.models.adapter import get_adapter, initialize_adapter, set_adapter
from flwr_decaf.clients.training import training_batches
from flwr_decaf.config import Config, flatten, parse_config
from flwr_decaf.strategies import DeCAF
from flwr_decaf.strategies.relay.roll_call import roll_call

NODES, PROCESSES, ROUNDS = 10, 2, 2
SMALL = {"train.batch-size": 8, "data.max-length": 24}
_CLIENTS = {"ours": "peers", "reloading": "reloading"}


def config_of(small: bool) -> Config:
    """Make the settings that all variants train with."""
    return parse_config(SMALL if small else {})


def bare_rounds(small: bool) -> list[float]:
    """Time rounds of the bare loop; a round ends when both processes have finished it."""
    context = get_context("spawn")
    barrier, results = context.Barrier(PROCESSES), context.Queue()
    workers = [
        context.Process(target=_bare, args=(small, place, barrier, results))
        for place in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    each = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return [max(seconds) for seconds in zip(*each, strict=True)]


def _bare(small: bool, place: int, barrier: Any, results: Any) -> None:
    torch.set_num_threads(1)
    config = config_of(small)
    task = load_task(config.model, config.lora, config.data)
    state = initialize_adapter(task.model, seed=0)
    mine = range(place, NODES, PROCESSES)
    rows = [load_node_data(config.model, config.lora, config.data, 0, i, NODES) for i in mine]
    batches = [
        list(training_batches(task, data.train, config.train, seed=0, server_round=1))
        for data in rows
    ]
    seconds = []
    for _ in range(ROUNDS + 1):
        barrier.wait()
        started = time.perf_counter()
        for batch in batches:
            set_adapter(task.model, state)
            _steps(task.model, batch, config.train.learning_rate)
            get_adapter(task.model)
        seconds.append(time.perf_counter() - started)
    results.put(seconds[1:])


def _steps(model: Any, batches: list[dict[str, torch.Tensor]], rate: float) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    model.train()
    for batch in batches:
        loss = model(**batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def serve(grid: Grid, way: str, small: bool) -> list[float]:
    """Time rounds of a strategy, without the first, in which everything is loaded."""
    roll_call(grid) if way == "ours" else _await_nodes(grid)
    config = config_of(small)
    task = load_task(config.model, config.lora, config.data)
    state = ArrayRecord(initialize_adapter(task.model, seed=0))
    strategy = (
        DeCAF("ring", evaluate_every=0)
        if way == "ours"
        else flwr_strategy.FedAvg(fraction_evaluate=0.0)
    )
    seconds = timed_rounds(strategy)
    settings = ConfigRecord({"settings": json.dumps(flatten(config))})
    strategy.start(grid, state, num_rounds=ROUNDS + 1, train_config=settings)
    return seconds()


def _await_nodes(grid: Grid) -> None:
    while len(list(grid.get_node_ids())) < NODES:
        time.sleep(0.2)


def main() -> None:
    """Measure the variants alternately, twice, with both batch sizes."""
    busy = busy_cores()
    rows = [_row(small) for small in (False, True)]
    report("engine", "A round of 10 nodes x 8 steps of MiniLM on two cores", rows, busy)


def _row(small: bool) -> dict[str, Any]:
    times: dict[str, list[float]] = {"bare": [], "ours": [], "reloading": []}
    for _ in range(2):
        times["bare"] += bare_rounds(small)
        for way in ("ours", "reloading"):
            times[way] += simulated.measured("benchmarks.engine", way=way, small=small)
    median = {way: statistics.median(seconds) for way, seconds in times.items()}
    return {
        "batch": "8 x 24" if small else "16 x 48",
        **{f"{way}-s": seconds for way, seconds in median.items()},
        "efficiency": median["bare"] / median["ours"],
        "reloading/ours": median["reloading"] / median["ours"],
        # On two cores, half of the nodes' calls run one after another.
        "reload-s/call": (median["reloading"] - median["ours"]) * PROCESSES / NODES,
    }


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("{"):
        arguments = json.loads(sys.argv[1])
        simulated.run(lambda grid: serve(grid, **arguments), _CLIENTS[arguments["way"]], NODES)
    else:
        main()
