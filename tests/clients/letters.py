"""Mail to a node, with good and damaged posts of its neighbour, node 4."""

from __future__ import annotations

import torch

from flwr_decaf.lora import select
from flwr_decaf.messages.mail import Mail
from flwr_decaf.messages.packing import pack
from tests.states import lora_state

OWN, OTHER = lora_state(1), lora_state(2)


def mail(trained="AB", exchanged="AB", neighbour=OTHER, rule="average", **options):
    posts = {4: pack(select(neighbour, exchanged))}
    return Mail(rule, trained, exchanged, weights=(0.75, 0.25), posts=posts, **options)


def damaged(kind):
    name = "model.q.lora_A.weight"
    return {
        "shape": {**OTHER, name: torch.zeros(2, 9, dtype=torch.float64)},
        "dtype": {**OTHER, name: OTHER[name].float()},
        "keys": {k: x for k, x in OTHER.items() if k != name},
        "NaN": {**OTHER, name: OTHER[name] * float("nan")},
        "infinity": {**OTHER, name: OTHER[name] / 0},
        "norm": {k: 1e4 * x for k, x in OTHER.items()},
    }[kind]
