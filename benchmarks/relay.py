"""What relaying posts along a ring costs, against Flower's own FedAvg with the same states.

    python -m benchmarks.relay [--large]

Clients send back what they get, so what is left is transport, mixing and Flower's engine. Both
strategies run by turns on the same nodes of one simulation. A FedAvg node is sent the model and
sends its own, 2 states; on a ring a node is sent two posts and sends its own, 3 states. ``ratio``
is the time of a round against FedAvg's, ``per byte`` the same for each byte delivered.
``--large`` adds 500 nodes and adapters of up to 60 MB.
"""

from __future__ import annotations

import json
import statistics
import sys

import torch
from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flwr_strategy

from benchmarks import simulated
from benchmarks.measure import noted_rounds, other_work, report
from flwr_decaf.strategies import DeCAF, DLoRA
from flwr_decaf.strategies.roll_call import roll_call

CASES = [(10, 0.15), (10, 4.0), (100, 0.15)]
LARGE = [(10, 60.0), (100, 4.0), (500, 0.15)]
LAYERS = 24  # pairs of an adapter
ROUNDS = 4


def adapter(megabytes: float) -> dict[str, torch.Tensor]:
    """Draw an adapter of rank 8 and of that size."""
    width = round(megabytes * 1e6 / 4 / (2 * 8 * LAYERS))
    names = (f"layer.{i}.lora_{factor}.weight" for i in range(LAYERS) for factor in "AB")
    torch.manual_seed(0)
    return {name: torch.randn(*((8, width) if "lora_A" in name else (width, 8))) for name in names}


def serve(grid: Grid, megabytes: float) -> dict[str, list[float]]:
    """Time rounds of the strategies, by turns."""
    roll_call(grid)
    state = adapter(megabytes)
    times: dict[str, list[float]] = {"fedavg": [], "dlora": [], "decaf": []}
    for turn in range(3):
        for name in times:
            seconds = _round_seconds(grid, name, state)
            times[name] += seconds if turn else []  # the first turn warms up
    return times


def _round_seconds(grid: Grid, name: str, state: dict[str, torch.Tensor]) -> list[float]:
    if name == "fedavg":
        strategy: flwr_strategy.Strategy = flwr_strategy.FedAvg(fraction_evaluate=0.0)
    else:
        strategy = (DeCAF if name == "decaf" else DLoRA)("ring", evaluate_every=0)
    seconds = noted_rounds(strategy)
    strategy.start(grid, ArrayRecord(state), num_rounds=ROUNDS + 1)
    return seconds()[1:]  # the first sends out the initial arrays, and no posts


def main() -> None:
    """Measure all cases, each in a process of its own."""
    beside = other_work()
    rows: list[dict[str, float]] = []
    try:
        for nodes, megabytes in CASES + (LARGE if "--large" in sys.argv else []):
            times = simulated.measured("benchmarks.relay", nodes=nodes, megabytes=megabytes)
            median = {name: statistics.median(seconds) for name, seconds in times.items()}
            rows.append(_row(nodes, megabytes, **median))
    finally:  # what was measured before an interruption is not lost
        report("relay", "A round on a ring against Flower's FedAvg, seconds", rows, beside)


def _row(
    nodes: int, megabytes: float, fedavg: float, dlora: float, decaf: float
) -> dict[str, float]:
    return {
        "nodes": nodes, "MB": megabytes,
        "fedavg-s": fedavg, "ring-s": dlora, "decaf-s": decaf,
        "fedavg-ms/message": 1e3 * fedavg / nodes, "ring-ms/message": 1e3 * dlora / nodes,
        "ratio": dlora / fedavg, "per-byte": dlora / fedavg * 2 / 3,
    }  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("{"):
        asked = json.loads(sys.argv[1])
        simulated.run(lambda grid: serve(grid, asked["megabytes"]), "idle", asked["nodes"])
    else:
        main()
