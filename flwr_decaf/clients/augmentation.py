"""Pictures changed at random in training, by name; the draws follow PyTorch's seed.

Adding one: a function from a batch (rows, channels, height, width) to one of the same shape, and a
line in ``registries.AUGMENTATIONS``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def unchanged(pixels: Tensor) -> Tensor:
    """Leave pictures as they are."""
    return pixels


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


def flip_shift(pixels: Tensor) -> Tensor:
    """Do both."""
    return shift(flip(pixels))
