from __future__ import annotations

import pytest
import torch

from flwr_decaf.clients.augmentation import flip, shift
from flwr_decaf.registries import AUGMENTATIONS


def pictures(n=40, height=16, width=24):
    return torch.arange(n * 3 * height * width, dtype=torch.float32).view(n, 3, height, width)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_one_keeps_the_shape_follows_the_seed_and_leaves_its_argument(name):
    given = pictures()
    torch.manual_seed(3)
    first = AUGMENTATIONS[name](given)
    torch.manual_seed(3)
    assert torch.equal(first, AUGMENTATIONS[name](given))
    assert first.shape == given.shape
    assert torch.equal(given, pictures())


def test_flip_mirrors_some_and_leaves_the_others():
    torch.manual_seed(0)
    given = pictures()
    flipped = flip(given)
    kept = [torch.equal(x, y) for x, y in zip(flipped, given, strict=True)]
    mirrored = [torch.equal(x, y.flip(-1)) for x, y in zip(flipped, given, strict=True)]
    assert all(k != m for k, m in zip(kept, mirrored, strict=True))
    assert 5 < sum(mirrored) < 35


def test_shift_moves_by_at_most_an_eighth_and_repeats_the_edge():
    torch.manual_seed(0)
    height, width = 16, 24
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    given = torch.stack([rows, columns, rows * 0]).float().expand(50, -1, -1, -1)
    offsets = set()
    for moved in shift(given):
        down = int(moved[0, height // 2, 0]) - height // 2
        right = int(moved[1, 0, width // 2]) - width // 2
        assert torch.equal(
            moved[0, :, 0], (torch.arange(height) + down).clamp(0, height - 1).float()
        )
        assert torch.equal(moved[1, 0], (torch.arange(width) + right).clamp(0, width - 1).float())
        offsets.add((down, right))
    assert {abs(down) <= 2 and abs(right) <= 3 for down, right in offsets} == {True}
    assert len(offsets) > 10
