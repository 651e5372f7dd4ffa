"""Runs for the tests of what every decentralized strategy must satisfy.

A new strategy needs one row in CASES.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing, peer_mixing_with
from flwr_decaf.lora import factor_of
from flwr_decaf.strategies import STRATEGIES
from tests.local_grid import LocalGrid
from tests.states import dense_products, lora_state

# strategy -> its graph's options, and the bytes of an edge: (A and B, only B, none) of the LoRA
CASES = {
    "decaf": ({"topology": "ring"}, "AB"),
    "dlora": ({"topology": "ring"}, "AB"),
    "dlora-fa": ({"topology": "ring"}, "B"),
    "dec-lora": ({"topology": "ring"}, "AB"),
    "tad-lora": ({"topology": "ring", "phase_length": 2}, "AB"),
    "dimat": ({"topology": "ring"}, "AB"),
    "relay-sum": ({"topology": "star"}, "AB"),
    "gradient-tracking": ({"topology": "ring"}, "AB"),
    "local-only": ({}, ""),
    "rolora": ({"topology": "ring", "phase_length": 1, "mixes": "active"}, "AB"),
    "conlora": ({"topology": "ring", "local_head": True}, "B"),
    "mixed-ranks": ({"topology": "ring", "ranks": [3, 1, 2]}, "AB"),
    "truncated": ({"topology": "ring", "energy": 0.9}, "AB"),
}
# Mean degree, where it is not a ring's: the hub of the star has 3 neighbours, and node i counts
# 10 + i times.
DEGREES = {"local-only": 0, "relay-sum": (3 * 10 + 11 + 12 + 13) / 46}
# Where nodes post more than their models: once more for each tensor that is tracked.
POSTED_TIMES = {"gradient-tracking": 2}
KINDS = {**STRATEGIES} | {
    "rolora": STRATEGIES["tad-lora"],
    "conlora": STRATEGIES["dlora-fa"],
    "mixed-ranks": STRATEGIES["decaf"],
    "truncated": STRATEGIES["decaf"],
}
WEIGHTS = [10, 11, 12, 13]  # numbers of examples, by which metrics are averaged
SHAPES = {"q": (5, 9), "up": (12, 7)}  # layer -> (d_out, d_in)


class InOrder:
    """Models whose units correspond as they are; what matching does has tests of its own."""

    def align(self, states):
        return list(states)

    def settle(self, state):
        return state


MODS = {"dimat": peer_mixing_with(lambda msg, context: InOrder())}


def train(msg, context):
    """Move each trainable tensor by an amount that depends on the node and the round."""
    config = msg.content["config"]
    place = int(context.node_config["partition-id"])
    state = msg.content["arrays"].to_torch_state_dict()
    for name, x in state.items():
        if (factor_of(name) or "A") in config["trainable-factors"] or factor_of(name) is None:
            state[name] = x + 0.1 * (place + 1) * torch.sin(x + config["server-round"])
    metrics = MetricRecord({"num-examples": 10 + place})
    return Message(RecordDict({"arrays": ArrayRecord(state), "metrics": metrics}), reply_to=msg)


def train_told(msg, context):
    reply = train(msg, context)
    reply.content["metrics"]["partition-id"] = int(context.node_config["partition-id"])
    return reply


def evaluate(msg, context):
    total = sum(float(x.sum()) for x in msg.content["arrays"].to_torch_state_dict().values())
    return Message(
        RecordDict({"metrics": MetricRecord({"num-examples": 1, "total": total})}), reply_to=msg
    )


def initial():
    return lora_state(0, shapes=SHAPES)


def app_of(name, train=train):
    app = ClientApp(mods=[MODS.get(name, peer_mixing)])
    app.train()(train)
    app.evaluate()(evaluate)
    return app


def run(
    name,
    n=4,
    rounds=3,
    evaluate_every=1,
    grid=None,
    on_round=lambda _: None,
    resume_from=None,
    fraction=1.0,
    dtype="fp32",
    options=None,
    **start,
):
    """Return the result of a run, the models that the nodes hold, and the grid."""
    grid = grid or LocalGrid(app_of(name), n)
    strategy = KINDS[name](
        **{**CASES[name][0], "posts": dtype, **(options or {})},
        evaluate_every=evaluate_every,
        evaluate_fraction=fraction,
        on_round=on_round,
        resume_from=resume_from,
    )
    result = strategy.start(grid, ArrayRecord(initial()), num_rounds=rounds, **start)
    return result, strategy.collect(grid), grid


@cache
def plain(name, rounds=3, n=4, dtype="fp32", fraction=1.0):
    """Run a strategy once for all tests that only read what comes out, and its checkpoints."""
    kept = {}
    keep = lambda reached: kept.update({reached.server_round: reached})  # noqa: E731
    return *run(name, rounds=rounds, n=n, dtype=dtype, fraction=fraction, on_round=keep), kept


def stopped_after(name, stop, dtype="fp32"):
    """Return the last checkpoint of a run of `stop` rounds; that of one round is from a longer."""
    return plain(name, max(stop, 2), dtype=dtype)[3][stop]


def first_ranks(name, node):
    """Return the rank of each layer in a node's first post."""
    options, _ = CASES[name]
    ranks = options.get("ranks", [3])
    if "energy" not in options:
        return dict.fromkeys(SHAPES, ranks[node % len(ranks)])
    trained = {k: x + 0.1 * (node + 1) * torch.sin(x + 1) for k, x in initial().items()}
    energy = {
        layer: np.linalg.svd(p.numpy(), compute_uv=False) ** 2
        for layer, p in dense_products(trained).items()
    }
    return {
        layer.removeprefix("model."): int((s.cumsum() < options["energy"] * s.sum()).sum()) + 1
        for layer, s in energy.items()
    }


def with_ranks(state, ranks):
    """Cut the factors of each layer to its rank."""
    rank_of = {name: ranks[name.split(".")[1]] for name in state if factor_of(name)}
    cut = {"A": lambda x, rank: x[:rank], "B": lambda x, rank: x[:, :rank]}
    return state | {name: cut[factor_of(name)](state[name], rank_of[name]) for name in rank_of}


def evaluated_nodes(grid):
    """Tell which nodes were asked to evaluate in each round."""
    asked, when, before = {}, 0, "evaluate"
    for message in grid.sent:  # Flower's FedAvg writes the last round into all its messages
        kind = message.metadata.message_type
        if "config" not in message.content:  # the roll call
            continue
        when += (before, kind) == ("evaluate", "train")
        before = kind
        if kind == "evaluate":
            asked.setdefault(when, set()).add(grid.place_of(message))
    return asked


def reported(record):
    return {key: value for key, value in record.items() if not key.endswith("-seconds")}


def equal(first, second):
    return all(torch.equal(x, second[name]) for name, x in first.items())
