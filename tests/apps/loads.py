"""A simulation of pure mixing at a given size, in a process of its own: prints what it took.

    python -m tests.apps.loads '{"topology": "ring", "nodes": 1000, "rounds": 10, "floats": 2}'

Node i starts from start(i), in all entries; so after k rounds it must hold row i of W^k start.
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
from flwr.simulation import run_simulation

from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies import DLoRA

ASKED = json.loads(sys.argv[1]) if sys.argv[0].endswith("loads.py") else {}
app = ClientApp(mods=[peer_mixing])
server, told = ServerApp(), {}


def start(node: int) -> float:
    return 1.0 + node % 7


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Round 1 puts the node's start there; after that nothing but mixing happens."""
    state = msg.content["arrays"].to_torch_state_dict()
    if msg.content["config"]["server-round"] == 1:
        state = {"x": torch.full_like(state["x"], start(int(context.node_config["partition-id"])))}
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": ArrayRecord(state), "metrics": metrics}), reply_to=msg)


@server.main()
def main(grid: Grid, context: Context) -> None:
    strategy = DLoRA(ASKED["topology"], evaluate_every=0)
    started = time.monotonic()
    strategy.start(grid, ArrayRecord({"x": torch.zeros(ASKED["floats"])}), ASKED["rounds"])
    told["seconds"] = time.monotonic() - started
    held = strategy.collect(grid)
    told["held"] = [[float(held[i]["x"].min()), float(held[i]["x"].max())] for i in sorted(held)]


def watch(stop: threading.Event) -> None:
    """Note the most memory that this process and its children have held, in bytes (shared once)."""
    me = psutil.Process()
    while not stop.wait(1.0):
        total = 0
        for process in [me, *me.children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
        told["peak"] = max(told.get("peak", 0), total)


if __name__ == "__main__":
    # Ray imports the ClientApp by its module's name, which must not be __main__.
    clients = importlib.import_module("tests.apps.loads")
    stop = threading.Event()
    threading.Thread(target=watch, args=(stop,), daemon=True).start()
    run_simulation(
        server,
        clients.app,
        num_supernodes=ASKED["nodes"],
        backend_config={"client_resources": {"num_cpus": ASKED.get("cpus", 1), "num_gpus": 0.0}},
    )
    stop.set()
    print("TOLD", json.dumps(told))
