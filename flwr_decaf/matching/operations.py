"""How each operation of a traced model relates the units of its inputs to those of its result.

Every function below takes a node of the graph, the labels of all tensors so far (one per
dimension), and the axes; it ties the dimensions that must be permuted together and returns the
labels of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.fx import Node

from flwr_decaf.matching.axes import Axes, Label, Place

Held = Mapping[Node, list[Label]]
Operation = Callable[[Node, Held, Axes], list[Label]]


class Unsupported(Exception):
    """Raised for an operation that is not supported; the message names it."""


def _convolution(node: Node, held: Held, axes: Axes) -> list[Label]:
    source, weight, bias = _take(node, 3)
    groups = _argument(node, 6, "groups", 1)
    batch, channels, *spatial = held[source]
    out, into, *_ = held[weight]
    if groups == 1:
        axes.tie(channels, into)
    elif groups == _shape(weight)[0] == _shape(source)[1]:
        axes.tie(channels, out)
    else:
        raise Unsupported(f"a convolution in {groups} groups")
    if bias is not None:
        axes.tie(out, held[bias][0])
    return [batch, out, *(None for _ in spatial)]


def _linear(node: Node, held: Held, axes: Axes) -> list[Label]:
    source, weight, bias = _take(node, 3)
    *leading, units = held[source]
    out, into = held[weight]
    axes.tie(units, into)
    if bias is not None:
        axes.tie(out, held[bias][0])
    return [*leading, out]


def _batch_norm(node: Node, held: Held, axes: Axes) -> list[Label]:
    source, *own = _take(node, 5)
    for tensor in filter(None, own):
        axes.tie(held[source][1], held[tensor][0])
    return held[source]


def _layer_norm(node: Node, held: Held, axes: Axes) -> list[Label]:
    source, shape = node.args[0], node.args[1]
    if len(shape) != 1:  # type: ignore[arg-type]
        raise Unsupported(f"layer-norm over {shape}")
    for tensor in (arg for arg in node.all_input_nodes if arg is not source):
        axes.tie(held[source][-1], held[tensor][0])  # type: ignore[index]
    return held[source]  # type: ignore[index]


def _elementwise(node: Node, held: Held, axes: Axes) -> list[Label]:
    """Tie the dimensions that broadcasting aligns."""
    shape = _shape(node)
    result: list[Label] = [None] * len(shape)
    tied = [False] * len(shape)
    for source in node.all_input_nodes:
        lengths, offset = _shape(source), len(shape) - len(_shape(source))
        for place, (length, label) in enumerate(zip(lengths, held[source], strict=True), offset):
            if length != shape[place] or length == 1:
                continue
            if tied[place]:
                axes.tie(result[place], label)
            else:
                result[place], tied[place] = label, True
    return result


def _pooling(node: Node, held: Held, axes: Axes) -> list[Label]:
    (source,) = node.all_input_nodes
    rank = len(_shape(source))
    if rank not in (3, 4):
        raise Unsupported(f"pooling of a tensor of {rank} dimensions")
    return [*held[source][:2], *(None for _ in range(rank - 2))]


def _mean(node: Node, held: Held, axes: Axes) -> list[Label]:
    (source,) = node.all_input_nodes
    labels, dims = held[source], node.args[1] if len(node.args) > 1 else None
    if dims is None:
        raise Unsupported("a mean over all dimensions")
    gone = {dim % len(labels) for dim in dims}  # type: ignore[union-attr,operator]
    kept = _argument(node, 2, "keepdim", False)
    pairs = [(dim, label) for dim, label in enumerate(labels) if kept or dim not in gone]
    return [None if dim in gone else label for dim, label in pairs]


def _permute(node: Node, held: Held, axes: Axes) -> list[Label]:
    (source,) = node.all_input_nodes
    return [held[source][dim] for dim in node.args[1]]  # type: ignore[union-attr,index]


def _transpose(node: Node, held: Held, axes: Axes) -> list[Label]:
    (source,) = node.all_input_nodes
    labels = list(held[source])
    first, second = node.args[1:3]
    labels[first], labels[second] = labels[second], labels[first]  # type: ignore[index]
    return labels


def _reshape(node: Node, held: Held, axes: Axes) -> list[Label]:
    """Follow dimensions through ``flatten``, ``view`` and the like, in runs of equal length."""
    (source,) = node.all_input_nodes
    before = [
        (size, label) for size, label in zip(_shape(source), held[source], strict=True) if size > 1
    ]
    after: list[Label] = []
    merged: list[tuple[int, Label]] = []
    for size in _shape(node):
        if size == 1:
            after.append(None)
            continue
        while math.prod(length for length, _ in merged) < size and before:
            merged.append(before.pop(0))
        if math.prod(length for length, _ in merged) != size:
            raise Unsupported(f"a reshape that splits units, {_shape(source)} to {_shape(node)}")
        after.append(_merge(merged, axes))
        merged = []
    return after


def _merge(dims: list[tuple[int, Label]], axes: Axes) -> Label:
    """Merge dimensions into one: the entries of the others follow each unit of the first."""
    (_, first), *others = dims
    for _, label in others:
        axes.fix(label)
    within = math.prod(length for length, _ in others)
    return first and Place(first.axis, first.repeat * within)


def _take(node: Node, count: int) -> list[Any]:
    return [*node.args[:count], *[None] * (count - len(node.args))]


def _argument(node: Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _shape(node: Node) -> tuple[int, ...]:
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        raise Unsupported(f"a result of type {type(value).__name__}")
    return tuple(value.shape)


# Keys are names of torch.ops.aten; in-place variants (``add_``) are looked up without the "_".
OPERATIONS: dict[str, Operation] = {
    **dict.fromkeys(("conv1d", "conv2d"), _convolution),
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    **dict.fromkeys(
        (
            "add", "sub", "mul", "div", "relu", "relu6", "leaky_relu", "elu", "gelu", "silu",
            "sigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid", "softplus", "clamp", "neg",
            "dropout", "feature_dropout", "clone", "contiguous", "detach", "to", "alias",
        ),
        _elementwise,
    ),
    **dict.fromkeys(
        ("max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d",
         "adaptive_avg_pool2d"),
        _pooling,
    ),
    "mean": _mean,
    "permute": _permute,
    "transpose": _transpose,
    **dict.fromkeys(("flatten", "view", "reshape", "unflatten", "squeeze", "unsqueeze"), _reshape),
}  # fmt: skip
