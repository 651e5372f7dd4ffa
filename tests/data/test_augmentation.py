from __future__ import annotations

import pytest
import torch

from flwr_decaf.data.augmentation import AUGMENTATIONS, flip, random_resized_crop, shift


def pictures(n=40, height=16, width=24):
    return torch.arange(n * 3 * height * width, dtype=torch.float32).view(n, 3, height, width)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_keeps_the_shape_and_depends_on_the_seed(name):
    given = pictures()
    torch.manual_seed(3)
    first = AUGMENTATIONS[name](given)
    torch.manual_seed(3)
    assert torch.equal(first, AUGMENTATIONS[name](given))
    assert first.shape == given.shape
    assert torch.equal(given, pictures())


def test_flip_flips_about_half_of_the_images():
    torch.manual_seed(0)
    given = pictures()
    flipped = flip(given)
    kept = [torch.equal(x, y) for x, y in zip(flipped, given, strict=True)]
    mirrored = [torch.equal(x, y.flip(-1)) for x, y in zip(flipped, given, strict=True)]
    assert all(k != m for k, m in zip(kept, mirrored, strict=True))
    assert 5 < sum(mirrored) < 35


def test_shift_is_at_most_an_eighth_and_replicates_the_edge():
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


@pytest.mark.parametrize(("height", "width"), [(60, 60), (40, 80), (90, 30)])
def test_random_resized_crop_resizes_a_window_to_the_image(height, width):
    # The pixels are their own coordinates, so a crop reveals its window.
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    given = torch.stack([rows, columns]).float().expand(400, -1, -1, -1)
    cropped = random_resized_crop(given)
    middle = cropped[:, :, 1:-1, 1:-1]  # values at the image's edge are replicated
    tall = (middle[:, 0, -1, 0] - middle[:, 0, 0, 0]) * height / (height - 3)
    signed = (middle[:, 1, 0, -1] - middle[:, 1, 0, 0]) * width / (width - 3)
    broad = signed.abs()
    steps = torch.linspace(0, 1, height - 2)
    expected = middle[:, 0, :1] + steps.view(1, -1, 1) * (middle[:, 0, -1:] - middle[:, 0, :1])
    torch.testing.assert_close(middle[:, 0], expected, atol=0.6, rtol=0)  # straight lines
    areas, ratios = tall * broad / (height * width), broad / tall
    assert float(areas.min()) > 0.07
    assert float(areas.max()) < 1.02
    assert 0.74 < float(ratios.min()) < 0.78
    assert 1.28 < float(ratios.max()) < 1.36
    assert 120 < int((signed < 0).sum()) < 280  # flipped or not
    assert cropped[:, 0].min() >= 0
    assert cropped[:, 0].max() <= height - 1


def test_random_resized_crop_covers_the_range_of_areas():
    torch.manual_seed(0)
    columns = torch.arange(64.0).expand(2000, 1, 64, 64)
    rows = columns.mT
    cropped = random_resized_crop(torch.cat([rows, columns], dim=1))[:, :, 2:-2, 2:-2]
    sides = (cropped.amax(dim=(2, 3)) - cropped.amin(dim=(2, 3))) / 59
    areas = sides.prod(dim=1)
    # The mean of a uniform area is 0.54; it is lower, since the windows that do not fit are large.
    assert 0.47 < float(areas.mean()) < 0.53
    assert float(areas.quantile(0.1)) == pytest.approx(0.16, abs=0.03)


def test_a_crop_of_half_precision_images_keeps_their_dtype():
    given = pictures(3).to(torch.bfloat16)
    assert random_resized_crop(given).dtype == torch.bfloat16
