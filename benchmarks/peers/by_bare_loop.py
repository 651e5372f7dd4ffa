"""The experiment in one process with one thread, without a framework."""

from benchmarks.peers.digits import (
    average,
    initial_model,
    inputs,
    neighbours,
    note_accuracy,
    train,
)


def main() -> None:
    """Train the nodes one after another, then mix all of them, in every round."""
    nodes = inputs().nodes
    models = [initial_model() for _ in range(nodes)]
    for finished in range(inputs().rounds):
        for node, model in enumerate(models):
            train(model, node, finished)
        states = [model.state_dict() for model in models]
        mixed = [
            average([states[j] for j in (node, *neighbours(node, nodes))]) for node in range(nodes)
        ]
        for model, state in zip(models, mixed, strict=True):
            model.load_state_dict(state)
    for node, model in enumerate(models):
        note_accuracy(model, node)
