"""Inputs of an encoder, row by row: only what a row's hidden states depend on."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

_BY_TOKEN = {"input_ids", "token_type_ids", "position_ids"}
_KNOWN = {*_BY_TOKEN, "attention_mask", "pixel_values"}


@dataclass(frozen=True)
class EncoderInputs:
    """A batch as an encoder receives it.

    Attributes
    ----------
    tensors : dict of str to Tensor
        Tokens (rows, tokens) and other values per token, or pixels (rows, ...).
    options : dict
        Further arguments, which are not tensors.
    lengths : list of int or None
        Number of tokens of each row, without padding; None for pixels.
    """

    tensors: dict[str, Tensor]
    options: dict[str, Any]
    lengths: list[int] | None

    @classmethod
    def of(cls, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Read the arguments of a call.

        Returns
        -------
        EncoderInputs or None
            None if hidden states would depend on more than tokens or pixels, if there are neither,
            or if a row is padded on the left, since its positions then depend on its batch.
        """
        bound = _signature(type(root).forward).bind(root, *args, **kwargs).arguments
        bound |= bound.pop("kwargs", {})
        given = {name: x for name, x in bound.items() if x is not None and name != "self"}
        tensors = {name: x for name, x in given.items() if isinstance(x, Tensor)}
        options = {name: x for name, x in given.items() if name not in tensors}
        plain = all(isinstance(x, bool | int | float | str) for x in options.values())
        main = [name for name in ("input_ids", "pixel_values") if name in tensors]
        rows = {len(x) for x in tensors.values()}
        if not plain or tensors.keys() - _KNOWN or len(main) != 1 or len(rows) != 1:
            return None
        if main == ["pixel_values"]:
            return None if "attention_mask" in tensors else cls(tensors, options, None)
        mask = tensors.pop("attention_mask", torch.ones_like(tensors["input_ids"]))
        if (
            mask.dim() != 2
            or bool((mask[:, :-1] < mask[:, 1:]).any())
            or not bool(mask[:, 0].all())
        ):
            return None
        return cls(tensors, options, mask.sum(dim=1).tolist())

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self.tensors.values())))

    @property
    def width(self) -> int:
        """Number of tokens to which texts are padded; 0 for pixels."""
        return 0 if self.lengths is None else self.tensors["input_ids"].shape[1]

    def by_length(self, places: Iterable[int]) -> list[list[int]]:
        """Group rows with the same number of tokens; all images are one group."""
        groups: dict[int, list[int]] = {}
        for place in places:
            groups.setdefault(self.lengths[place] if self.lengths else 0, []).append(place)
        return list(groups.values())

    def rows(self, places: list[int]) -> dict[str, Any]:
        """Return the arguments for some rows of the same length, without padding."""
        rows = {name: x[places] for name, x in self.tensors.items()}
        if self.lengths is not None:
            rows = {name: x[:, : self.lengths[places[0]]] for name, x in rows.items()}
            rows["attention_mask"] = torch.ones_like(rows["input_ids"])
        return rows | self.options

    def keys(self, context: object) -> list[bytes]:
        """Return a hash of each row's content, and of a context that all rows share."""
        tensors = [x for _, x in sorted(self.tensors.items())]
        kinds = [(name, x.dtype) for name, x in sorted(self.tensors.items())]
        shape = None if self.lengths else [x.shape[1:] for x in tensors]
        start = repr((context, tensors[0].device.type, kinds, shape, sorted(self.options.items())))
        flat = [x.cpu().reshape(len(x), -1) for x in tensors]
        lengths: Sequence[int | None] = self.lengths or [None] * len(self)
        keys = []
        for place, length in enumerate(lengths):
            digest = hashlib.blake2b(f"{start} {length}".encode(), digest_size=16)
            for values in flat:
                digest.update(as_bytes(values[place, :length]))
            keys.append(digest.digest())
        return keys


@lru_cache
def _signature(forward: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(forward)


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the values of a tensor of any dtype as bytes, without a copy if it is on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
