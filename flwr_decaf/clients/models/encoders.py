"""Where the frozen prefix of a model ends: its stacks of layers, and the first trained layer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import nn

INPUTS = ("input_ids", "pixel_values")


class Encoder(NamedTuple):
    """A stack of layers, with the module that computes what enters it.

    Attributes
    ----------
    root : nn.Module
        The innermost module that takes tokens or pixels and has the layers.
    layers : nn.ModuleList
        The layers, each of which takes and returns hidden states.
    frozen : int
        Number of layers below the first one with trained parameters; at most all but the last. 0
        if something before the layers is trained, such as embeddings.
    """

    root: nn.Module
    layers: nn.ModuleList
    frozen: int

    @property
    def takes_pixels(self) -> bool:
        """Whether it encodes images."""
        return "pixel_values" in inspect.signature(self.root.forward).parameters

    @property
    def prefix(self) -> list[nn.Module]:
        """The modules before the first layer that is not frozen, in the order of definition.

        They include modules that contain this layer, such as the root, since these may have their
        own parameters and dropout.
        """
        modules = list(self.root.modules())
        (end,) = (place for place, x in enumerate(modules) if x is self.layers[self.frozen])
        return modules[:end]


def find_encoders(model: nn.Module) -> list[Encoder]:
    """Find the stacks of layers of a transformers model: one, or two for CLIP.

    A stack is the ``ModuleList`` with the most parameters in the innermost module whose ``forward``
    takes ``input_ids`` or ``pixel_values``. Modules are assumed to be used in the order in which
    they are defined, as in all encoders and decoders of transformers; ``FrozenPrefix`` checks the
    result.

    Parameters
    ----------
    model : nn.Module
        A model in which exactly the trained parameters require gradients.
    """
    roots = [module for module in model.modules() if _takes_inputs(module) and _stacks(module)]
    inner = [root for root in roots if not any(x in roots for x in list(root.modules())[1:])]
    stacks = ((root, max(_stacks(root), key=_size)) for root in inner)
    return [Encoder(root, layers, _frozen(root, layers)) for root, layers in stacks]


def _takes_inputs(module: nn.Module) -> bool:
    return any(name in inspect.signature(module.forward).parameters for name in INPUTS)


def _stacks(root: nn.Module) -> list[nn.ModuleList]:
    return [x for x in root.modules() if isinstance(x, nn.ModuleList) and len(x) > 1]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _frozen(root: nn.Module, layers: nn.ModuleList) -> int:
    layer_of = {id(p): place for place, layer in enumerate(layers) for p in layer.parameters()}
    reached = 0
    for parameter in root.parameters():
        reached = layer_of.get(id(parameter), reached)
        if parameter.requires_grad:
            return reached
    return len(layers) - 1


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Disable dropout in a module, and restore the mode of each of its parts afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
