"""The experiment by NVFlare's peer-to-peer API in its simulator; run in NVFlare's environment.

``DGDExecutor`` takes one step of plain gradient descent per exchange, in evaluation mode, so this
executor has an algorithm of its own, as ``SyncAlgorithmExecutor`` provides for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from nvflare.app_opt.p2p.controllers import DistOptController
from nvflare.app_opt.p2p.executors import SyncAlgorithmExecutor
from nvflare.app_opt.p2p.types import Config, Neighbor, Network, Node
from nvflare.job_config.api import FedJob

from benchmarks.peers import digits

TASKS = ["config", "run_algorithm"]


class RingExecutor(SyncAlgorithmExecutor):
    """A node that trains, exchanges its state with its neighbours, and averages."""

    def run_algorithm(self, fl_ctx: Any, shareable: Any, abort_signal: Any) -> None:
        """Run all rounds, and note the accuracy of the last mix."""
        node, model = self.id - 1, digits.initial_model()
        for finished in range(digits.inputs().rounds):
            if abort_signal.triggered:
                return
            digits.train(model, node, finished)
            own = model.state_dict()
            self._exchange_values(fl_ctx, value=own, iteration=finished)
            received = self.neighbors_values.pop(finished)
            states = [own, *(received[neighbour.id] for neighbour in self.neighbors)]
            model.load_state_dict(digits.average(states))
        digits.note_accuracy(model, node)

    def _to_message(self, x: digits.State) -> dict[str, Any]:
        return {name: tensor.numpy() for name, tensor in x.items()}

    def _from_message(self, x: dict[str, Any]) -> digits.State:
        return {name: torch.as_tensor(array) for name, array in x.items()}


def ring(nodes: int) -> Network:
    """Make a ring whose nodes all have the same weight in a mix."""
    return Network([
        Node(_site(node), [Neighbor(_site(j), 1 / 3) for j in digits.neighbours(node, nodes)])
        for node in range(nodes)
    ])  # fmt: skip


def _site(node: int) -> str:
    return f"site-{node + 1}"


def main() -> None:
    """Run the simulator with all clients at the same time, each in its own process."""
    # By default, receivers download every array on its own, which suits large models.
    os.environ["NVFLARE_NP_DOWNLOAD_CHUNK_SIZE"] = "0"
    nodes = digits.inputs().nodes
    job = FedJob(name="ring")
    job.to_server(DistOptController(Config(ring(nodes))))
    for node in range(nodes):
        job.to(RingExecutor(sync_timeout=120), _site(node), tasks=TASKS)
    job.simulator_run(str(Path(os.environ[digits.FOLDER]) / "workspace"), threads=nodes)
