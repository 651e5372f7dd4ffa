"""Quantized posts: pure functions from a state to what is posted, and back.

"int8" stores a row x as integers q and one scale s in fp32:

    s = max |x| / 127,   q = floor(x / s) + u,   u = 1 with probability x / s - floor(x / s), else 0

so that ``E[s q] = x`` and ``|s q - x| <= s`` (stochastic rounding, as in QSGD, arXiv 1610.02132).
"bf16" rounds every value to the nearest bfloat16. "fp32" posts tensors in the dtypes they have.

A row runs along the longer side of a tensor, flattened to two dimensions. Scales are thus per row
of A and per column of B, that is, one for each component of the product. This keeps their number
small even if the rank is 4, so that every row of B has only four values.

Tensors that would not become smaller are posted as they are. So are integers (batch-norm counters)
and, with "int8", vectors: they are short, and the variances of batch normalization, which must stay
positive, may differ by more than the 127 steps of one scale. No state is kept from one post to the
next: the residual ``x - s q`` stays in the node's own model when it mixes (see
``flwr_decaf.clients.mixing``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flwr_decaf.lora import State, compute_dtype, factor_of
from flwr_decaf.seeds import derive_seed

SCALES = "decaf.scales"  # the name under which the scales of all rows are posted, in one tensor
_LARGEST = 127


def quantize(state: State, dtype: str, seed: int) -> State:
    """Convert a state to what is posted.

    Parameters
    ----------
    state : State
        Names to tensors of any shape.
    dtype : str
        "fp32", "bf16" or "int8", see above.
    seed : int
        Seed of the stochastic rounding, from which each tensor's own seed is derived by its name.

    Returns
    -------
    State
        Tensors of the same names and shapes and, with "int8", their scales under ``SCALES``.
    """
    return _QUANTIZE[dtype](state, seed)


def dequantize(posted: State, dtype: str, like: State) -> State:
    """Convert what is posted back to a state.

    Parameters
    ----------
    posted : State
        Result of ``quantize``, or anything that was received as one.
    dtype : str
        The dtype that posts have.
    like : State
        State with the names, shapes and dtypes of the original, whose ranks may be others.

    Returns
    -------
    State
        The state, in the order of ``posted``. Tensors that do not match ``like`` are returned as
        they are; ``rules.contract.check_alike`` detects them.

    Raises
    ------
    ValueError
        If the scales do not match the rows.
    """
    return _DEQUANTIZE[dtype](posted, like)


def _unchanged(state: State, like: object) -> State:
    return state


def _to_bf16(state: State, seed: int) -> State:
    return {name: x.bfloat16() if _shrinks_to_bf16(x) else x for name, x in state.items()}


def _from_bf16(posted: State, like: State) -> State:
    is_short = {name for name, x in like.items() if _shrinks_to_bf16(x)}
    return {
        name: x.to(like[name].dtype) if name in is_short and x.dtype == torch.bfloat16 else x
        for name, x in posted.items()
    }


def _to_int8(state: State, seed: int) -> State:
    posted, scales = dict(state), []
    for name in _shrinking_to_int8(state):
        rounded, scale = _round(_rows(state[name]), derive_seed(seed, name))
        posted[name] = _of_rows(rounded, state[name].shape)
        scales.append(scale)
    return {**posted, SCALES: torch.cat(scales)} if scales else posted


def _from_int8(posted: State, like: State) -> State:
    like = _of_posted_ranks(posted, like)
    state = {name: x for name, x in posted.items() if name != SCALES}
    shrunk = [name for name in _shrinking_to_int8(like) if name in state]
    counts = [len(_rows(like[name])) for name in shrunk]
    scales = posted.get(SCALES, torch.zeros(0))
    if scales.dtype != torch.float32 or scales.shape != (sum(counts),):
        raise ValueError(
            f"a post must have one scale in fp32 for each of its {sum(counts)} rows; got "
            f"{tuple(scales.shape)} {scales.dtype}"
        )
    for name, scale in zip(shrunk, torch.split(scales, counts), strict=True):
        x = like[name]
        if state[name].dtype == torch.int8 and state[name].shape == x.shape:
            values = _rows(state[name]) * scale.to(compute_dtype(x.dtype)).unsqueeze(1)
            state[name] = _of_rows(values, x.shape).to(x.dtype)
    return state


def _of_posted_ranks(posted: State, like: State) -> State:
    """Return a state of the dtypes of ``like`` and the shapes of a post's LoRA factors."""
    return {
        name: x.new_empty(1).expand(posted[name].shape)
        if factor_of(name) and name in posted and posted[name].dim() == x.dim()
        else x
        for name, x in like.items()
    }


def _round(rows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Round rows stochastically to multiples of their scales."""
    scale = (rows.abs().amax(dim=1) / _LARGEST).float()
    divided = rows / scale.to(rows.dtype).unsqueeze(1)
    divided = torch.where(scale.unsqueeze(1) > 0, divided, 0.0)  # a row of zeros
    below = divided.floor()
    chances = torch.rand(rows.shape, generator=torch.Generator().manual_seed(seed))
    rounded = below + (chances < divided - below)
    return rounded.clamp(-_LARGEST, _LARGEST).to(torch.int8), scale


def _shrinks_to_bf16(x: Tensor) -> bool:
    return x.is_floating_point() and x.element_size() > torch.bfloat16.itemsize


def _shrinking_to_int8(state: State) -> list[str]:
    def shrinks(x: Tensor) -> bool:
        if not x.is_floating_point() or x.numel() == 0 or x.dim() < 2:
            return False
        size = x.numel() + len(_rows(x)) * torch.float32.itemsize
        return size < x.numel() * x.element_size()

    return [name for name, x in state.items() if shrinks(x)]


def _rows(x: Tensor) -> Tensor:
    """View a tensor as a matrix whose rows run along its longer side, in a dtype to compute in."""
    x = x.to(compute_dtype(x.dtype))
    matrix = x.flatten(1)
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def _of_rows(rows: Tensor, shape: torch.Size) -> Tensor:
    """Invert ``_rows``, up to the dtype."""
    is_transposed = shape[0] > shape[1:].numel()
    return (rows.T if is_transposed else rows).reshape(shape)


_QUANTIZE: dict[str, Callable[[State, int], State]] = {
    "fp32": _unchanged,
    "bf16": _to_bf16,
    "int8": _to_int8,
}
_DEQUANTIZE: dict[str, Callable[[State, State], State]] = {
    "fp32": _unchanged,
    "bf16": _from_bf16,
    "int8": _from_int8,
}
