"""The seconds of processor time for a report of 36 runs: imports, reading, drawing and writing.

    python -m benchmarks.report

The runs are six methods with two data splits and three seeds, each with ten nodes and 60 rounds, of
which six are evaluated. Their metrics are random numbers.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

from flwr_decaf.config import Config, flatten
from flwr_decaf.runs.folder import RunFolder

METHODS = ("decaf", "dlora", "dlora-fa", "dec-lora", "local-only", "fedavg")
NODES, ROUNDS = 10, 60


def write_run(path: Path, draw: random.Random, **settings: object) -> None:
    """Write a finished run with random metrics."""
    folder = RunFolder.create(path, flatten(Config()) | settings)
    links = [[i, (i + 1) % NODES, 1 / 3] for i in range(NODES)]
    folder.update(network={"nodes": NODES, "lambda2": 0.87, "links": links})
    lines = []
    for t in range(ROUNDS + 1):
        for node in range(NODES):
            place = {"node": node, "round": t, "elapsed": 5.0 * t, "process": node % 2}
            trained = {"bytes-sent": 44500, "train-seconds": 0.2, "distance-to-mean": draw.random()}
            mixed = {"mixing-seconds": 0.01, "mixing-interference": 0.1, "mixing-neighbours": 2}
            if t:
                lines.append({**place, "phase": "train", **trained, **mixed})
            if t % 12 == 0:
                scores = {"accuracy": draw.random(), "f1": draw.random(), "evaluate-seconds": 0.1}
                lines.append({**place, "phase": "evaluate", **scores})
    folder.append(lines)
    folder.finish("finished")


def main() -> None:
    """Write the runs, and measure a report of them."""
    with tempfile.TemporaryDirectory() as temporary:
        root, draw = Path(temporary), random.Random(0)
        for method in METHODS:
            for alpha in (0.3, 1000.0):
                for seed in range(3):
                    settings = {"strategy": method, "data.alpha": alpha, "seed": seed}
                    write_run(root / f"{method}-{alpha}-{seed}", draw, **settings)
        started = time.process_time()
        from flwr_decaf.report.page import write_report
        from flwr_decaf.report.runs import find_runs

        imported = time.process_time()
        folders = find_runs([root])
        for folder in folders:
            folder.metrics  # noqa: B018 - reads it
        read = time.process_time()
        write_report(folders, root / "report")
        written = time.process_time()
        print(f"imports   {imported - started:5.1f} s")
        print(f"reading   {read - imported:5.1f} s")
        print(f"report    {written - read:5.1f} s")


if __name__ == "__main__":
    main()
