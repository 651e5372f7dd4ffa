"""LoRA states: which tensors form a pair, which are dense, and how large they are.

A state is a dict from tensor names, as in ``peft.get_peft_model_state_dict``, to tensors. A layer's
pair is ``(A, B)`` with A of shape (rank, d_in) and B of shape (d_out, rank); its weight update is
``scaling * B @ A``, with PEFT's scaling: alpha / rank, or alpha / sqrt(rank) with rsLoRA. As this
number is the same on all nodes, rules and distances omit it. Every other tensor (a classification
head, batch-norm buffers) is dense.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

State = dict[str, Tensor]

# PEFT: "...query.lora_A.weight" for linear and conv layers, "...lora_embedding_A" for embeddings.
_FACTOR = re.compile(r"(?<=\.lora_)(embedding_)?([AB])(?=\.|$)")


class Pair(NamedTuple):
    """The names of the two factors of an adapted layer."""

    a: str
    b: str


def factor_of(name: str) -> str | None:
    """Return which LoRA factor a tensor is.

    Parameters
    ----------
    name : str
        A name from a PEFT state dict.

    Returns
    -------
    str or None
        "A", "B", or None for a dense tensor.

    Examples
    --------
    >>> factor_of("layer.0.query.lora_B.weight"), factor_of("classifier.weight")
    ('B', None)
    """
    found = _FACTOR.search(name)
    return found.group(2) if found else None


def pairs(names: Iterable[str]) -> list[Pair]:
    """List the (A, B) pairs among names, in the order of their A.

    Raises
    ------
    ValueError
        If a factor has no partner: half a pair has no product to mix.
    """
    known = list(names)
    found = [
        Pair(name, _FACTOR.sub(r"\g<1>B", name, count=1))
        for name in known
        if factor_of(name) == "A"
    ]
    lone = {name for name in known if factor_of(name)} ^ {name for pair in found for name in pair}
    if lone:
        raise ValueError(
            f"LoRA factors must come in pairs lora_A, lora_B; {min(lone)} has no partner in the "
            "state; pass both, or use a rule that mixes factors one by one"
        )
    return found


def pairs_present(names: Iterable[str]) -> list[Pair]:
    """List the (A, B) pairs among names; none if there are only A factors or only B factors.

    Raises
    ------
    ValueError
        If there are both, and one of them has no partner.
    """
    known = list(names)
    return pairs(known) if {factor_of(name) for name in known} >= {"A", "B"} else []


def check_products(names: Iterable[str]) -> None:
    """Refuse to mix products of an adapter whose update of a weight is more than a product.

    DoRA scales each row of ``W_0 + scaling * B @ A`` to a norm that is trained as well, so that the
    mean product is not the update of the mean model.

    Raises
    ------
    ValueError
        If one of the tensors is DoRA's vector of norms.
    """
    if found := next((name for name in names if "lora_magnitude_vector" in name), None):
        raise ValueError(
            f"products B A must be all that an adapter adds to its base if they are mixed; {found} "
            "is a magnitude vector of DoRA; use LoRA, or a strategy that averages tensors, such as "
            "DLoRA, without a robust rule"
        )


def select(state: Mapping[str, Tensor], factors: str, dense: bool = True) -> State:
    """Select the given factors of a state, and its dense tensors.

    Parameters
    ----------
    state : mapping of str to Tensor
        A complete adapter.
    factors : str
        "AB", "A" or "B".
    dense : bool
        Whether to keep dense tensors, by default True.

    Returns
    -------
    State
        A new dict with the same tensors, in the same order.
    """

    def is_chosen(name: str) -> bool:
        factor = factor_of(name)
        return dense if factor is None else factor in factors

    return {name: x for name, x in state.items() if is_chosen(name)}


def product(state: Mapping[str, Tensor], pair: Pair) -> Tensor:
    """Compute the product ``B @ A`` of a pair, of shape (d_out, d_in).

    Meant for diagnostics and tests: averaging rules never form this matrix. Factors of
    convolutions are flattened to two dimensions first.
    """
    return state[pair.b].flatten(1) @ state[pair.a].flatten(1)


def size_in_bytes(state: Mapping[str, Tensor]) -> int:
    """Return the size of all tensor values in bytes, without names and headers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to mix in: fp32 for half-precision tensors, else the dtype itself."""
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype
