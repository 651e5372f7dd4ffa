from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessorPil, CLIPImageProcessorPil

from flwr_decaf.data.pixels import Pixels, image_processor, to_rgb
from flwr_decaf.data.sources import resolve_path

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


def fixed(**changes):
    options = {"size": {"height": 4, "width": 6}, "do_center_crop": False}
    return BitImageProcessorPil(**{**options, "image_mean": MEAN, "image_std": STD, **changes})


def picture(width=6, height=4, mode="RGB"):
    rng = np.random.default_rng(0)
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode)


def batch(pixels, *pictures):
    return pixels.batch([{"pixels": kept} for kept in pixels.encode(pictures)])


def test_a_batch_by_hand():
    given = picture()
    expected = np.asarray(given, dtype=np.float64).transpose(2, 0, 1) / 255
    expected = (expected - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    found = batch(Pixels.of(fixed(), "m"), given, given)
    assert found.shape == (2, 3, 4, 6)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found[1].numpy(), expected, atol=1e-5)


def test_values_stay_bytes_if_the_processor_does_not_rescale():
    processor = fixed(do_rescale=False, do_normalize=False)
    found = batch(Pixels.of(processor, "m"), picture())
    np.testing.assert_array_equal(found[0].numpy(), np.asarray(picture()).transpose(2, 0, 1))


def test_pixels_equal_those_of_the_processor_up_to_rounding_to_bytes():
    folder = resolve_path("package:flwr_decaf_demo/vit-small")
    processor, given = image_processor(folder), picture(90, 70)
    whole = processor(given, return_tensors="pt")["pixel_values"]
    assert (batch(Pixels.of(processor, folder), given) - whole).abs().max() < 1 / 255 / 0.2


def test_images_of_any_size_are_resized_to_the_same():
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}
    )
    assert batch(Pixels.of(processor, "m"), picture(30, 10), picture(8, 50)).shape == (2, 3, 8, 8)


def test_a_processor_that_keeps_aspect_ratios_is_rejected():
    with pytest.raises(
        ValueError, match=r"model\.name must resize all images to the same size; got 'm'"
    ):
        Pixels.of(fixed(size={"shortest_edge": 8}), "m")


def test_grey_and_transparent_images():
    grey = to_rgb(picture(mode="L"))
    assert grey.mode == "RGB"
    assert np.asarray(grey)[..., 0].tolist() == np.asarray(picture(mode="L")).tolist()
    clear = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    clear.putpixel((1, 0), (10, 20, 30, 0))
    assert np.asarray(to_rgb(clear)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    palette = clear.convert("P")
    assert to_rgb(palette).mode == "RGB"
