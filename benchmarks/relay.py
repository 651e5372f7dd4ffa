"""What relaying posts costs, against Flower's own FedAvg with the same states.

    python -m benchmarks.relay [--large]

Clients turn what they get into tensors and send it back, so what is left is transport, mixing and
Flower's engine, with its looks for messages every 0.1 s. A FedAvg node is sent the model and sends
its own, 2 states; a node of degree d is sent d posts and sends its own, d + 1 states. ``ratio`` is
the time of a DLoRA round against FedAvg's, ``per byte`` the same for each byte delivered. Posts lie
in files that actors share, as under ``flwr-decaf run``; or they travel in the messages, as between
machines. Nothing is evaluated; ``measured`` is DLoRA with the consensus distance and interference
that runs with evaluation measure in every round. ``--large`` adds 500 nodes and adapters of 60 MB.
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
from benchmarks.measure import noted_rounds, other_work, report
from flwr_decaf.strategies import DeCAF, DLoRA
from flwr_decaf.strategies.relay.roll_call import roll_call

CASES = [(10, 0.15, "ring"), (10, 4.0, "ring"), (10, 4.0, "complete"), (100, 0.15, "ring")]
LARGE = [(10, 60.0, "ring"), (100, 4.0, "ring"), (500, 0.15, "ring")]
LAYERS = 24  # pairs of an adapter
ROUNDS = 4


def adapter(megabytes: float) -> dict[str, torch.Tensor]:
    """Draw an adapter of rank 8 and of that size."""
    width = round(megabytes * 1e6 / 4 / (2 * 8 * LAYERS))
    names = (f"layer.{i}.lora_{factor}.weight" for i in range(LAYERS) for factor in "AB")
    torch.manual_seed(0)
    return {name: torch.randn(*((8, width) if "lora_A" in name else (width, 8))) for name in names}


def serve(grid: Grid, name: str, megabytes: float, topology: str) -> list[float]:
    """Time rounds of a strategy, without the first, which sends out the initial arrays alone."""
    roll_call(grid)
    rounds = ROUNDS + 3
    strategies: dict[str, Callable[[], flwr_strategy.Strategy]] = {
        "fedavg": lambda: flwr_strategy.FedAvg(fraction_evaluate=0.0),
        "dlora": lambda: DLoRA(topology, evaluate_every=0),
        "decaf": lambda: DeCAF(topology, evaluate_every=0),
        "measured": lambda: DLoRA(topology, evaluate_every=rounds),
    }
    strategy = strategies[name]()
    seconds = noted_rounds(strategy)
    strategy.start(grid, ArrayRecord(adapter(megabytes)), num_rounds=rounds)
    return seconds()[2:]


def main() -> None:
    """Measure all cases, each way in a process of its own: what one leaves weighs on no other."""
    beside = other_work()
    rows: list[dict[str, Any]] = []
    try:
        for case in CASES + (LARGE if "--large" in sys.argv else []):
            rows.append(_row(*case))
    finally:  # what was measured before an interruption is not lost
        report("relay", "A round against Flower's FedAvg, seconds", rows, beside)


def _row(nodes: int, megabytes: float, topology: str) -> dict[str, Any]:
    def seconds(name: str, shared: bool = True) -> float:
        asked = {"nodes": nodes, "megabytes": megabytes, "topology": topology, "name": name}
        return float(statistics.median(simulated.measured("benchmarks.relay", shared, **asked)))

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
        asked = json.loads(sys.argv[1])
        nodes = asked.pop("nodes")
        simulated.run(lambda grid: serve(grid, **asked), "idle", nodes)
    else:
        main()
