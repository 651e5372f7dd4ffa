"""A simulation of pure mixing at a given size; prints its time, memory and result as JSON.

    python -m tests.apps.loads '{"topology": "ring", "nodes": 1000, "rounds": 10, "floats": 2}'

All entries of node i start at start(i), so after k rounds the node must have row i of W^k start.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time

import psutil
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies import DLoRA

ARGUMENTS = json.loads(sys.argv[1]) if sys.argv[0].endswith("loads.py") else {}
app = ClientApp(mods=[peer_mixing])
server, result = ServerApp(), {}


def start(node: int) -> float:
    return 1.0 + node % 7


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Set the node's start value in round 1, and return the arrays unchanged afterwards."""
    state = msg.content["arrays"].to_torch_state_dict()
    if msg.content["config"]["server-round"] == 1:
        state = {"x": torch.full_like(state["x"], start(int(context.node_config["partition-id"])))}
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": ArrayRecord(state), "metrics": metrics}), reply_to=msg)


@server.main()
def main(grid: Grid, context: Context) -> None:
    strategy = DLoRA(ARGUMENTS["topology"], evaluate_every=0)
    started = time.monotonic()
    strategy.start(grid, ArrayRecord({"x": torch.zeros(ARGUMENTS["floats"])}), ARGUMENTS["rounds"])
    result["seconds"] = time.monotonic() - started
    held = strategy.collect(grid)
    result["held"] = [[float(held[i]["x"].min()), float(held[i]["x"].max())] for i in sorted(held)]


def watch(stop: threading.Event) -> None:
    """Record the peak memory of this process and its children in bytes, shared pages once."""
    me = psutil.Process()
    while not stop.wait(1.0):
        total = 0
        for process in [me, *me.children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
        result["peak"] = max(result.get("peak", 0), total)


if __name__ == "__main__":
    from flwr.simulation import run_simulation

    # Ray imports the ClientApp by its module's name, which must not be __main__.
    clients = importlib.import_module("tests.apps.loads")
    stop = threading.Event()
    threading.Thread(target=watch, args=(stop,), daemon=True).start()
    run_simulation(
        server,
        clients.app,
        num_supernodes=ARGUMENTS["nodes"],
        backend_config={
            "client_resources": {"num_cpus": ARGUMENTS.get("cpus", 1), "num_gpus": 0.0}
        },
    )
    stop.set()
    print("RESULT", json.dumps(result))
