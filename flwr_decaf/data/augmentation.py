"""Random augmentation of images in training, by name, drawn from PyTorch's global generator.

To add one, write a function from a batch (rows, channels, height, width) to one of the same shape,
and a line in ``registries.AUGMENTATIONS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from flwr_decaf import registries
from flwr_decaf.registries import Registry

AUGMENTATIONS: Registry[Callable[[Tensor], Tensor]] = Registry(registries.AUGMENTATIONS)
_AREA, _RATIO, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # torchvision's defaults


def unchanged(pixels: Tensor) -> Tensor:
    """Return the images unchanged."""
    return pixels


def flip(pixels: Tensor) -> Tensor:
    """Flip each image horizontally with probability 0.5."""
    flipped = torch.rand(len(pixels)) < 0.5
    return torch.where(flipped.view(-1, 1, 1, 1), pixels.flip(-1), pixels)


def shift(pixels: Tensor) -> Tensor:
    """Shift each image by up to an eighth of its height and width, replicating its edge."""
    height, width = pixels.shape[-2:]
    down, right = height // 8, width // 8
    padded = pad(pixels, (right, right, down, down), mode="replicate")
    tops = torch.randint(2 * down + 1, (len(pixels),)).tolist()
    lefts = torch.randint(2 * right + 1, (len(pixels),)).tolist()
    return torch.stack(
        [
            image[:, top : top + height, left : left + width]
            for image, top, left in zip(padded, tops, lefts, strict=True)
        ]
    )


def random_resized_crop(pixels: Tensor) -> Tensor:
    """Crop a random window of each image, resize it (bilinearly) to the image, and apply ``flip``.

    The window's area is uniform in 8 to 100 % of the image's, and its aspect ratio log-uniform in
    3/4 to 4/3, as in torchvision's ``RandomResizedCrop``.
    """
    n, _, height, width = pixels.shape
    share_y, share_x = _windows(n, height, width)
    move_y, move_x = ((1 - share) * (2 * torch.rand(n) - 1) for share in (share_y, share_x))
    zero = torch.zeros(n)
    # Maps coordinates of the result to those of the image; both range from -1 to 1.
    maps = torch.stack([share_x, zero, move_x, zero, share_y, move_y], dim=1).view(n, 2, 3)
    grid = affine_grid(maps, list(pixels.shape), align_corners=False).to(pixels)
    return flip(grid_sample(pixels, grid, padding_mode="border", align_corners=False))


def _windows(n: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Draw the height and width of n windows, as fractions of the image's."""
    areas = torch.empty(n, _TRIES).uniform_(*_AREA) * height * width
    ratios = torch.empty(n, _TRIES).uniform_(*map(math.log, _RATIO)).exp()
    sides = torch.stack([(areas / ratios).sqrt() / height, (areas * ratios).sqrt() / width])
    # If none of ten tries fits, use the largest centred window with an allowed aspect ratio.
    ratio = min(max(width / height, _RATIO[0]), _RATIO[1])
    last = torch.tensor([min(1.0, width / ratio / height), min(1.0, height * ratio / width)])
    fits = (sides <= 1).all(dim=0)
    first = fits.int().argmax(dim=1).expand(2, n).unsqueeze(2)
    chosen = sides.gather(2, first).squeeze(2)
    found = torch.where(fits.any(dim=1), chosen, last.unsqueeze(1))
    return found[0], found[1]


def flip_shift(pixels: Tensor) -> Tensor:
    """Apply ``flip``, then ``shift``."""
    return shift(flip(pixels))
