"""Groups of hidden units that are permuted together, derived from the model.

The model is traced by ``torch.export``. Every dimension of every tensor is labelled with the units
that it runs over; each operation ties the dimensions that must be permuted together: the outputs of
a convolution, the batch-norm that follows and the inputs of the next layer; both sides of a
residual addition; the channels of a depthwise convolution. Flattened feature maps have several
entries per unit. The inputs and outputs of the model stay in place.

torch-pruning's DepGraph finds similar groups, but treats unknown operations as elementwise; a wrong
guess would change a merged model silently. Here, unknown operations are rejected.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from flwr_decaf.lora import State
from flwr_decaf.matching.axes import Axes, Label
from flwr_decaf.matching.operations import OPERATIONS, Unsupported


class Member(NamedTuple):
    """A dimension of a parameter or buffer, with ``repeat`` consecutive entries per unit."""

    name: str
    dim: int
    repeat: int


class Tap(NamedTuple):
    """Where to read the activations of a group: dimension ``dim`` of a layer's input or output."""

    layer: str
    side: str
    dim: int
    repeat: int


class Group(NamedTuple):
    """Units that are permuted together.

    Attributes
    ----------
    size : int
        Number of units.
    members : tuple of Member
        All dimensions that a permutation of the units must reorder.
    taps : tuple of Tap
        The layers that write or read the units.
    """

    size: int
    members: tuple[Member, ...]
    taps: tuple[Tap, ...]


def find_groups(model: nn.Module, batch: Mapping[str, Tensor]) -> list[Group]:
    """Find the groups of hidden units of a model.

    Parameters
    ----------
    model : nn.Module
        Any graph of linear layers, convolutions (plain or depthwise), batch-norm, layer-norm,
        elementwise operations, pooling, means and reshapes.
    batch : mapping of str to Tensor
        The arguments of ``model(**batch)``; only their shapes matter.

    Returns
    -------
    list of Group
        In the order in which the model computes them.

    Raises
    ------
    ValueError
        If the model has a layer that is not supported.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            program = torch.export.export(model, (), dict(batch))
    finally:
        model.train(was_training)
    return _groups_of(program)


def permuted(state: State, groups: list[Group], permutations: list[Tensor]) -> State:
    """Permute hidden units without changing the function that the model computes.

    Parameters
    ----------
    state : State
        The complete state of the model.
    groups : list of Group
        The result of ``find_groups``.
    permutations : list of Tensor
        One per group: unit i of the result is unit ``permutation[i]`` of ``state``.

    Returns
    -------
    State
        The permuted state; tensors outside the groups are shared with ``state``.
    """
    result = dict(state)
    for group, permutation in zip(groups, permutations, strict=True):
        for name, dim, repeat in group.members:
            tensor = result[name]
            entries = permutation[:, None] * repeat + torch.arange(repeat)
            result[name] = tensor.index_select(dim, entries.flatten().to(tensor.device))
    return result


def _groups_of(program: ExportedProgram) -> list[Group]:
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    axes = Axes()
    held: dict[Node, list[Label]] = {}
    computed: list[Label] = []  # labels of the operations' results: only these are units
    taps: dict[Node, tuple[str, str, int]] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            shape = _shape(node)
            own = names.get(node.name)
            held[node] = [axes.new(size) if own and size > 1 else None for size in shape]
        elif node.op == "output":
            for label in (label for out in node.all_input_nodes for label in held.get(out, [])):
                axes.fix(label)
        else:
            held[node] = _apply(node, held, axes)
            computed += held[node]
            taps = _taps(node, names) | taps
    return _collect(axes, held, computed, taps, names)


def _apply(node: Node, held: dict[Node, list[Label]], axes: Axes) -> list[Label]:
    operation = str(node.target).removeprefix("aten.").split(".")[0].rstrip("_")
    layer, kind = _layer(node)
    if operation not in OPERATIONS:
        raise ValueError(_unsupported(layer, kind, operation))
    try:
        return OPERATIONS[operation](node, held, axes)
    except Unsupported as error:
        raise ValueError(_unsupported(layer, kind, str(error))) from error


def _unsupported(layer: str, kind: str, what: str) -> str:
    return (
        "matching must know how each layer's units can be permuted; it does not support "
        f"{what} in {layer or 'the model itself'} ({kind}); use a model without it, or a strategy "
        "other than dimat"
    )


def _layer(node: Node) -> tuple[str, str]:
    stack = node.meta.get("nn_module_stack") or {"": ("", "model")}
    path, kind = list(stack.values())[-1]
    name = kind if isinstance(kind, str) else kind.__name__
    return path, name.rsplit(".", 1)[-1]


def _taps(node: Node, names: Mapping[str, str]) -> dict[Node, tuple[str, str, int]]:
    """List the values that hooks on the layer of this node see: its input and its output."""
    layer, kind = _layer(node)
    weights = [names.get(source.name) for source in node.all_input_nodes]
    # A hook on a layer sees the operation's tensors only if the layer consists of that operation.
    if kind not in _DIMS or f"{layer}.weight" not in weights:
        return {}
    tapped = {node: (layer, "output", _DIMS[kind])}
    if all(_layer(user)[1].startswith("BatchNorm") for user in node.users):
        tapped = {}  # the batch-norm's output has the same correlations, up to their sign
    if not kind.startswith("BatchNorm"):
        tapped[node.all_input_nodes[0]] = (layer, "input", _DIMS[kind])
    return tapped


_DIMS = {"Linear": -1, "Conv1d": 1, "Conv2d": 1, "BatchNorm1d": 1, "BatchNorm2d": 1}


def _collect(
    axes: Axes,
    held: dict[Node, list[Label]],
    computed: list[Label],
    taps: Mapping[Node, tuple[str, str, int]],
    names: Mapping[str, str],
) -> list[Group]:
    roots = dict.fromkeys(axes.root(label).axis for label in computed if label is not None)
    members: dict[int, list[Member]] = defaultdict(list)
    for node, labels in held.items():
        for dim, label in enumerate(labels if node.name in names else []):
            if label is not None:
                root = axes.root(label)
                members[root.axis].append(Member(names[node.name], dim, root.repeat))
    read: dict[int, list[Tap]] = defaultdict(list)
    for node, (layer, side, dim) in taps.items():
        if (label := held[node][dim]) is not None:
            root = axes.root(label)
            read[root.axis].append(Tap(layer, side, dim, root.repeat))
    return [
        Group(axes.size(axis), tuple(members[axis]), tuple(read[axis]))
        for axis in roots
        if not axes.is_fixed(axis) and read[axis]
    ]


def _shape(node: Node) -> tuple[int, ...]:
    value: Any = node.meta["val"]
    return tuple(value.shape) if isinstance(value, Tensor) else ()
