"""The experiment without a framework: two processes of one thread, as in ``benchmarks.engine``."""

from __future__ import annotations

from typing import Any

from torch import multiprocessing

from benchmarks.peers import digits

PROCESSES = 2


def main() -> None:
    """Train and mix half of the nodes in each process; their models are in shared memory."""
    context = multiprocessing.get_context("fork")
    posts = [digits.initial_model().share_memory().state_dict() for _ in range(_nodes())]
    barrier = context.Barrier(PROCESSES)
    workers = [
        context.Process(target=_rounds, args=(range(place, _nodes(), PROCESSES), posts, barrier))
        for place in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _nodes() -> int:
    return digits.inputs().nodes


def _rounds(mine: range, posts: list[digits.State], barrier: Any) -> None:
    models = {node: digits.initial_model() for node in mine}
    for finished in range(digits.inputs().rounds):
        for node, model in models.items():
            digits.train(model, node, finished)
            for name, tensor in model.state_dict().items():
                posts[node][name].copy_(tensor)
        barrier.wait()
        for node, model in models.items():
            mixed = [posts[j] for j in (node, *digits.neighbours(node, _nodes()))]
            model.load_state_dict(digits.average(mixed))
        barrier.wait()
    for node, model in models.items():
        digits.note_accuracy(model, node)
