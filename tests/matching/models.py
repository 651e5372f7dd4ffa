"""Small versions of every architecture that DIMAT supports, with non-trivial batch-norm."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.func import functional_call
from transformers import ResNetConfig, ResNetForImageClassification

from flwr_decaf.clients.models.networks import NETWORKS
from flwr_decaf.matching import find_groups

SIDE, CLASSES = 16, 5


def residual(kind, depths):
    sizes = [8, 16, 32, 64] if kind == "basic" else [16, 32, 64, 128]
    return ResNetForImageClassification(
        ResNetConfig(
            num_channels=1, num_labels=CLASSES, embedding_size=8, hidden_sizes=sizes,
            depths=depths, layer_type=kind,
        )
    )  # fmt: skip


def depthwise():
    """A mobile block, whose depthwise convolution shares the units of the previous layer."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU6(inplace=True),
        nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.Hardswish(inplace=True),
        nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Dropout(), nn.Linear(4 * 12 * 12, CLASSES),
    )  # fmt: skip


# name -> how to build it, and its number of groups, counted by hand
MODELS = {
    "mlp": (lambda: NETWORKS["mlp"](1, SIDE, 12, CLASSES), 2),
    # three residual streams, and one group within each of nine blocks
    "resnet-20": (lambda: NETWORKS["resnet-20"](1, SIDE, 4, CLASSES), 3 + 9),
    # four streams (the stem is the first's), eight blocks
    "resnet-18": (lambda: residual("basic", [2, 2, 2, 2]), 4 + 8),
    # the stem, four streams, two groups in each of sixteen blocks
    "resnet-50": (lambda: residual("bottleneck", [3, 4, 6, 3]), 1 + 4 + 32),
    "vgg-16": (lambda: NETWORKS["vgg-16"](1, SIDE, 4, CLASSES), 13),
    "depthwise": (depthwise, 2),
}


class Wrapped(nn.Module):
    """Takes images by keyword, as all models here do."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixel_values):
        output = self.network(pixel_values)
        return getattr(output, "logits", output)


def build(name, seed=0):
    """Build a model in fp64 that has seen data: no batch-norm tensor is at its initial value."""
    torch.manual_seed(seed)
    model = Wrapped(MODELS[name][0]()).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            module.momentum = 0.5
    with torch.no_grad():
        model.train()(**pictures(64, seed=7))  # otherwise, deep layers would hardly vary
    return model.eval()


def pictures(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(count, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return {"pixel_values": drawn}


@cache
def groups_of(name):
    """Find the groups of an architecture once; they do not depend on the weights."""
    return find_groups(build(name), pictures(2))


def state_of(model):
    return {name: x.clone() for name, x in model.state_dict().items() if x.is_floating_point()}


def logits(model, state, batch=None):
    with torch.no_grad():
        return functional_call(model, state, kwargs=batch or pictures(seed=9))


def draw(groups, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(group.size, generator=generator) for group in groups]
