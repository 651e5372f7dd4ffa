"""Pictures changed at random in training, by name; the draws follow PyTorch's seed.

Adding one: a function from a batch (rows, channels, height, width) to one of the same shape, and a
line in ``AUGMENTATIONS``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad


def flip(pixels: Tensor) -> Tensor:
    """Mirror each picture left to right, or not, by the toss of a coin."""
    tossed = torch.rand(len(pixels)) < 0.5
    return torch.where(tossed.view(-1, 1, 1, 1), pixels.flip(-1), pixels)


def shift(pixels: Tensor) -> Tensor:
    """Move each picture by up to an eighth of its sides; the edge is repeated outwards."""
    height, width = pixels.shape[-2:]
    down, right = height // 8, width // 8
    padded = pad(pixels, (right, right, down, down), mode="replicate")
    tops = torch.randint(2 * down + 1, (len(pixels),)).tolist()
    lefts = torch.randint(2 * right + 1, (len(pixels),)).tolist()
    return torch.stack(
        [
            picture[:, top : top + height, left : left + width]
            for picture, top, left in zip(padded, tops, lefts, strict=True)
        ]
    )


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda pixels: pixels,
    "flip": flip,
    "shift": shift,
    "flip-shift": lambda pixels: shift(flip(pixels)),
}
