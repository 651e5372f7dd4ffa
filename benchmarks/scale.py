"""How the cost of the relay grows with the number of nodes, if posts travel in a store.

    python -m benchmarks.scale [--large]

The nodes only add a constant to their tensors. They are in another process, so times and memory are
those of the ServerApp alone. Messages contain tickets; the posts, of 150 KB, are in a folder. Each
round is trained, measured (distances to the mean), evaluated, recorded in a run folder and followed
by a checkpoint. The exponential graph has a degree of about 2 log2(n); the Base-10 graphs of a
period reach consensus in log10(n) exchanges of 9 posts. ``--large`` adds 1,000 nodes, and posts of
60 MB of ten nodes, in a folder and in the messages.

Seconds are processor time, and the figures of a round are those of the last. ``relay`` is the time
in the strategy's methods, without checkpoints and without the conversion of messages to bytes, and
``start`` the time before the first round. ``memory`` is the peak above the memory in use before the
run.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from flwr.app import ArrayRecord

from benchmarks import simulated
from benchmarks.measure import busy_cores, report
from benchmarks.relay import adapter
from benchmarks.remote_nodes import RemoteNodes, remote_nodes
from flwr_decaf.messages.checkpoint import Checkpoint, save_checkpoint
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.strategies import DLoRA
from flwr_decaf.strategies.relay.resuming import Resume

GRAPHS: dict[str, dict[str, Any]] = {
    "ring": {"topology": "ring"},
    "exponential": {"topology": "exponential"},
    "base": {"dynamic": "base", "topology_options": {"peers": 9}, "mixing_steps": "period"},
}
SMALL = 0.15  # MB
CASES = [(graph, n, SMALL, "folder") for n in (10, 100) for graph in GRAPHS]
LARGE = [
    *((graph, 1000, SMALL, "folder") for graph in GRAPHS),
    *(("ring", 10, 60.0, where) for where in ("folder", "messages")),
]
ROUNDS = 2
_LAST = "aggregate_evaluate"  # the method that Flower calls last in a round


class Ledger:
    """Measures a run by a clock that stops in the grid and while a checkpoint is written.

    Parameters
    ----------
    grid : RemoteNodes
        Grid of the run.
    folder : RunFolder
        Folder of the checkpoints and metrics.
    """

    def __init__(self, grid: RemoteNodes, folder: RunFolder) -> None:
        self._grid, self._folder = grid, folder
        self._relay = self._checkpoints = self._start = 0.0
        self._memory = psutil.Process().memory_info().rss
        self._began = self._clock()
        self._ends: list[tuple[float, float]] = []

    def keep(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint."""
        started = time.process_time()
        save_checkpoint(self._folder.checkpoints, checkpoint)
        self._checkpoints += time.process_time() - started

    def watch(self, strategy: DLoRA) -> None:
        """Measure the methods that Flower calls in every round."""
        for name in ("configure_train", "aggregate_train", "configure_evaluate", _LAST):
            setattr(strategy, name, self._timed(name, getattr(strategy, name)))

    def figures(self) -> dict[str, Any]:
        """Return the row of the table, after the run."""
        (relay, checkpoints), last = self._ends[-2:]
        files = sorted(self._folder.checkpoints.glob("round-*"))[-1].iterdir()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "start-s": self._start, "relay-s": last[0] - relay,
            "checkpoint-s": last[1] - checkpoints, "messages": len(self._grid.sent),
            "B-to-node": max(self._grid.sent), "B-from-node": max(self._grid.received),
            "objects-per-message": max(self._grid.objects),
            "KB-through-server": (sum(self._grid.sent) + sum(self._grid.received)) / 1e3,
            "checkpoint-MB": sum(file.stat().st_size for file in files) / 1e6,
            "metrics-lines": len(self._folder.metrics) / ROUNDS,
            "memory-MB": (peak - self._memory) / 1e6,
        }  # fmt: skip

    def _clock(self) -> float:
        return time.process_time() - self._grid.seconds - self._checkpoints

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(server_round: int, *arguments: Any, **named: Any) -> Any:
            started = self._clock()
            self._start = self._start or started - self._began
            result = method(server_round, *arguments, **named)
            self._relay += self._clock() - started
            if name == _LAST:
                self._ends.append((self._relay, self._checkpoints))
                if server_round < ROUNDS:
                    self._grid.forget()
            return result

        return timed


def serve(graph: str, nodes: int, megabytes: float, posts: str) -> dict[str, Any]:
    """Run a strategy on nodes in another process, and measure the relay."""
    with tempfile.TemporaryDirectory() as temporary:
        store, run = Path(temporary, "store"), Path(temporary, "run")
        store.mkdir()
        folder = RunFolder.create(run, {})
        with remote_nodes("drifting", nodes, store) as grid:
            ledger = Ledger(grid, folder)
            strategy = DLoRA(
                **GRAPHS[graph],
                store=str(store) if posts == "folder" else "",
                evaluate_every=1,
                resume=Resume(on_round=ledger.keep),
                train_metrics_aggr_fn=folder.recorder("train"),
                evaluate_metrics_aggr_fn=folder.recorder("evaluate"),
            )
            ledger.watch(strategy)
            strategy.start(grid, ArrayRecord(adapter(megabytes)), num_rounds=ROUNDS)
        return ledger.figures()


def main() -> None:
    """Measure all cases, each in a process of its own so that they do not affect each other."""
    busy = busy_cores()
    rows: list[dict[str, Any]] = []
    try:
        for case in CASES + (LARGE if "--large" in sys.argv else []):
            what = dict(zip(("graph", "nodes", "megabytes", "posts"), case, strict=True))
            rows.append({**what, **simulated.measured("benchmarks.scale", False, **what)})
    finally:  # keep what was measured before an interruption
        report("scale", "The relay's own work in a round", rows, busy)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("{"):
        simulated.show(serve(**json.loads(sys.argv[1])))
    else:
        main()
