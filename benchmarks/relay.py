"""What relaying posts costs, against Flower's own FedAvg with the same states.

    python -m benchmarks.relay [--large]

Clients turn what they get into tensors and send it back, so what is left is transport, mixing and
Flower's engine. Both strategies run by turns on the same nodes of one simulation. A FedAvg node is
sent the model and sends its own, 2 states; a node of degree d is sent d posts and sends its own,
d + 1 states. ``ratio`` is the time of a DLoRA round against FedAvg's, ``per byte`` the same for
each byte delivered. Posts lie in files that actors share, as under ``flwr-decaf run``, or travel in
the messages, as between machines. ``--large`` adds 500 nodes and adapters of 60 MB.
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import torch
from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flwr_strategy

from benchmarks import simulated
from benchmarks.measure import noted_rounds, other_work, report
from flwr_decaf.strategies import DeCAF, DLoRA
from flwr_decaf.strategies.roll_call import roll_call

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


def serve(grid: Grid, megabytes: float, topology: str) -> dict[str, list[float]]:
    """Time rounds of the strategies, by turns."""
    roll_call(grid)
    state = adapter(megabytes)
    times: dict[str, list[float]] = {"fedavg": [], "dlora": [], "decaf": []}
    for turn in range(3):
        for name in times:
            seconds = _round_seconds(grid, name, state, topology)
            times[name] += seconds if turn else []  # the first turn warms up
    return times


def _round_seconds(
    grid: Grid, name: str, state: dict[str, torch.Tensor], topology: str
) -> list[float]:
    if name == "fedavg":
        strategy: flwr_strategy.Strategy = flwr_strategy.FedAvg(fraction_evaluate=0.0)
    else:
        strategy = (DeCAF if name == "decaf" else DLoRA)(topology, evaluate_every=0)
    seconds = noted_rounds(strategy)
    strategy.start(grid, ArrayRecord(state), num_rounds=ROUNDS + 1)
    return seconds()[1:]  # the first sends out the initial arrays, and no posts


def main() -> None:
    """Measure all cases, each in a process of its own."""
    beside = other_work()
    rows: list[dict[str, Any]] = []
    try:
        for nodes, megabytes, topology in CASES + (LARGE if "--large" in sys.argv else []):
            case = {"nodes": nodes, "megabytes": megabytes, "topology": topology}
            for shared in (True, False):
                times = simulated.measured("benchmarks.relay", shared, **case)
                rows.append(_row(**case, shared=shared, times=times))
    finally:  # what was measured before an interruption is not lost
        report("relay", "A round against Flower's FedAvg, seconds", rows, beside)


def _row(
    nodes: int, megabytes: float, topology: str, shared: bool, times: dict[str, list[float]]
) -> dict[str, Any]:
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    degree = nodes - 1 if topology == "complete" else 2
    ratio = median["dlora"] / median["fedavg"]
    return {
        "nodes": nodes, "MB": megabytes, "topology": topology,
        "posts": "shared" if shared else "in messages",
        **{f"{name}-s": seconds for name, seconds in median.items()},
        "fedavg-ms/node": 1e3 * median["fedavg"] / nodes,
        "dlora-ms/node": 1e3 * median["dlora"] / nodes,
        "ratio": ratio, "per-byte": ratio * 2 / (degree + 1),
    }  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("{"):
        asked = json.loads(sys.argv[1])
        nodes = asked.pop("nodes")
        simulated.run(lambda grid: serve(grid, **asked), "idle", nodes)
    else:
        main()
