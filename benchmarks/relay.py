"""The cost of relaying posts, compared with Flower's own FedAvg with the same states.

    python -m benchmarks.relay [--large]

Clients convert their input to tensors and send it back, so that the time consists of transport,
mixing and Flower's engine, which polls for messages every 0.1 s. A FedAvg node receives the model
and sends its own: 2 states. A node of degree d receives d posts and sends its own: d + 1 states.
``ratio`` is the time of a DLoRA round divided by that of a FedAvg round, and ``per byte`` is the
same per byte delivered. Posts are in files that the actors share, as with ``flwr-decaf run``, or in
the messages, as between machines. Nothing is evaluated; ``measured`` is DLoRA with the consensus
distance and the interference, which runs with evaluation measure in every round. ``--large`` adds
500 nodes and 60 MB adapters.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flwr_strategy

from benchmarks import simulated
from benchmarks.measure import busy_cores, report, timed_rounds
from flwr_decaf.strategies import DeCAF, DLoRA
from flwr_decaf.strategies.relay.roll_call import roll_call

CASES = [(10, 0.15, "ring"), (10, 4.0, "ring"), (10, 4.0, "complete"), (100, 0.15, "ring")]
LARGE = [(10, 60.0, "ring"), (100, 4.0, "ring"), (500, 0.15, "ring")]
LAYERS = 24  # pairs of an adapter
ROUNDS = 4


def adapter(megabytes: float) -> dict[str, torch.Tensor]:
    """Draw a random adapter of rank 8 and the given size."""
    width = round(megabytes * 1e6 / 4 / (2 * 8 * LAYERS))
    names = (f"layer.{i}.lora_{factor}.weight" for i in range(LAYERS) for factor in "AB")
    torch.manual_seed(0)
    return {name: torch.randn(*((8, width) if "lora_A" in name else (width, 8))) for name in names}


def serve(grid: Grid, name: str, megabytes: float, topology: str) -> list[float]:
    """Time rounds of a strategy, without the first, which sends only the initial arrays."""
    roll_call(grid)
    rounds = ROUNDS + 3
    strategies: dict[str, Callable[[], flwr_strategy.Strategy]] = {
        "fedavg": lambda: flwr_strategy.FedAvg(fraction_evaluate=0.0),
        "dlora": lambda: DLoRA(topology, evaluate_every=0),
        "decaf": lambda: DeCAF(topology, evaluate_every=0),
        "measured": lambda: DLoRA(topology, evaluate_every=rounds),
    }
    strategy = strategies[name]()
    seconds = timed_rounds(strategy)
    strategy.start(grid, ArrayRecord(adapter(megabytes)), num_rounds=rounds)
    return seconds()[2:]


def main() -> None:
    """Measure all cases, each in a process of its own so that they do not affect each other."""
    busy = busy_cores()
    rows: list[dict[str, Any]] = []
    try:
        for case in CASES + (LARGE if "--large" in sys.argv else []):
            rows.append(_row(*case))
    finally:  # keep what was measured before an interruption
        report("relay", "A round against Flower's FedAvg, seconds", rows, busy)


def _row(nodes: int, megabytes: float, topology: str) -> dict[str, Any]:
    def seconds(name: str, shared: bool = True) -> float:
        arguments = {"nodes": nodes, "megabytes": megabytes, "topology": topology, "name": name}
        return float(statistics.median(simulated.measured("benchmarks.relay", shared, **arguments)))

    fedavg, dlora, measured, decaf = map(seconds, ("fedavg", "dlora", "measured", "decaf"))
    degree = nodes - 1 if topology == "complete" else 2
    return {
        "nodes": nodes, "MB": megabytes, "topology": topology,
        "fedavg-s": fedavg, "dlora-s": dlora, "measured-s": measured, "decaf-s": decaf,
        "dlora-in-messages-s": seconds("dlora", shared=False),
        "fedavg-ms/node": 1e3 * fedavg / nodes, "dlora-ms/node": 1e3 * dlora / nodes,
        "ratio": dlora / fedavg, "per-byte": dlora / fedavg * 2 / (degree + 1),
    }  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("{"):
        arguments = json.loads(sys.argv[1])
        nodes = arguments.pop("nodes")
        simulated.run(lambda grid: serve(grid, **arguments), "idle", nodes)
    else:
        main()
