"""The memory that each additional actor takes, and whether the server's memory grows over rounds.

    python -m benchmarks.memory

Reports the proportional set size (a page shared by k processes counts 1/k in each) and the unique
set size (pages of that process only) of the Ray actors after rounds of MiniLM, with one actor and
with two; then the unique set size of the server per round, with 200 idle nodes and adapters of
150 KB.
"""

from __future__ import annotations

import gc
import json
import sys
from typing import Any

import psutil
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

from benchmarks import simulated
from benchmarks.measure import busy_cores, report
from benchmarks.relay import adapter
from flwr_decaf.clients.loading import load_task
from flwr_decaf.clients.models.adapter import initialize_adapter
from flwr_decaf.config import flatten, parse_config
from flwr_decaf.messages.checkpoint import Checkpoint
from flwr_decaf.strategies import DLoRA
from flwr_decaf.strategies.relay.roll_call import roll_call

MB = 1e6
SMALL = {"train.batch-size": 8, "data.max-length": 24, "train.local-steps": 1}
NODES, MANY, ROUNDS = 4, 200, 12


def serve_training(grid: Grid) -> dict[str, Any]:
    """Train, and measure the actors' memory before they end."""
    roll_call(grid)
    config = parse_config(SMALL)
    task = load_task(config.model, config.lora, config.data)
    state = ArrayRecord(initialize_adapter(task.model, seed=0))
    settings = ConfigRecord({"settings": json.dumps(flatten(config))})
    strategy = DLoRA("ring", evaluate_every=0)
    strategy.start(grid, state, num_rounds=3, train_config=settings)
    base = sum(x.numel() * x.element_size() for x in task.model.parameters())
    return {"base": base, "actors": [_memory(process) for process in _actors()]}


def _actors() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "ClientAppActor" in " ".join(child.cmdline())]


def _memory(process: psutil.Process) -> dict[str, float]:
    held = process.memory_full_info()
    files = sum(m.pss for m in process.memory_maps() if m.path.endswith(".safetensors"))
    return {"pss": held.pss, "uss": held.uss, "weights": files}


def serve_rounds(grid: Grid) -> list[float]:
    """Relay posts, and record the server's memory at the end of each round."""
    roll_call(grid)
    held: list[float] = []

    def note(reached: Checkpoint) -> None:
        gc.collect()  # measure only what is still referenced
        held.append(psutil.Process().memory_full_info().uss)

    strategy = DLoRA("ring", evaluate_every=0, on_round=note)
    strategy.start(grid, ArrayRecord(adapter(0.15)), num_rounds=ROUNDS)
    return held


def main() -> None:
    """Measure the actors and the server."""
    busy = busy_cores()
    rows = []
    for cpus in (2, 1):
        result = simulated.measured("benchmarks.memory", cpus=cpus)
        for place, actor in enumerate(result["actors"]):
            rows.append(
                {"actors": len(result["actors"]), "actor": place, "base-MB": result["base"] / MB}
                | {f"{kind}-MB": size / MB for kind, size in actor.items()}
            )
    report("memory", "An actor's memory: proportional, unique, mapped weights", rows, busy)
    report_rounds(busy)


def report_rounds(busy: float) -> None:
    """Measure only the server."""
    held = [size / MB for size in simulated.measured("benchmarks.memory", nodes=MANY)]
    row = {
        "nodes": MANY, "after-round-2-MB": held[1], "after-round-6-MB": held[5],
        f"after-round-{len(held)}-MB": held[-1],
        "MB/round-from-6": (held[-1] - held[5]) / (len(held) - 6),
    }  # fmt: skip
    report("memory-rounds", "The server's own memory over the rounds", [row], busy)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("{"):
        arguments = json.loads(sys.argv[1])
        if "nodes" in arguments:
            simulated.run(serve_rounds, "idle", arguments["nodes"])
        else:
            simulated.run(serve_training, "peers", NODES, cpus=arguments["cpus"])
    else:
        main()
