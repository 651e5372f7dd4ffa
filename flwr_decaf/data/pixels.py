"""Images as pixels: resized once and cached as bytes, normalized batch by batch.

Images are resized and cropped by the model's own image processor of transformers, with Pillow
rather than torchvision, so that every machine computes the same pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor

from flwr_decaf.data.encoding import Row

Shape = tuple[int, int, int]


def image_processor(folder: str) -> Any:
    """Load the image processor of a model, with the Pillow backend."""
    return AutoImageProcessor.from_pretrained(folder, backend="pil")


@dataclass(frozen=True)
class Pixels:
    """Converts images to batches of pixels.

    Attributes
    ----------
    processor : BaseImageProcessor
        The model's own image processor.
    shape : tuple of int
        (channels, height, width) of every image after resizing.
    """

    processor: Any
    shape: Shape

    @classmethod
    def of(cls, processor: Any, name: str) -> Pixels:
        """Determine the shape to which an image processor resizes all images.

        Parameters
        ----------
        processor : BaseImageProcessor
            The model's own image processor.
        name : str
            ``model.name``, for the error.

        Raises
        ------
        ValueError
            If it keeps aspect ratios, so that images cannot be stacked into a batch.
        """
        tall, wide = (_resized(processor, [Image.new("RGB", s)]) for s in ((40, 80), (80, 40)))
        if tall.shape != wide.shape:
            raise ValueError(
                "model.name must resize all images to the same size; got "
                f"{name!r}, whose image processor keeps aspect ratios; set a size with height and "
                "width, or a centre crop, in its preprocessor_config.json"
            )
        return cls(processor, tall.shape[1:])

    def encode(self, images: Sequence[Image.Image]) -> list[bytes]:
        """Resize and crop images, and return one byte per value, in the order of ``shape``."""
        return [x.tobytes() for x in _resized(self.processor, [to_rgb(i) for i in images])]

    def batch(self, rows: Sequence[Row]) -> Tensor:
        """Stack and normalize encoded rows: (rows, channels, height, width) in fp32."""
        values = np.frombuffer(b"".join(row["pixels"] for row in rows), dtype=np.uint8)
        pixels = torch.tensor(values.reshape(len(rows), *self.shape), dtype=torch.float32)
        if self.processor.do_rescale:
            pixels *= self.processor.rescale_factor
        if self.processor.do_normalize:
            mean, std = (
                torch.tensor(x).view(-1, 1, 1)
                for x in (self.processor.image_mean, self.processor.image_std)
            )
            pixels = (pixels - mean) / std
        return pixels


def _resized(processor: Any, images: list[Image.Image]) -> np.ndarray:
    resized = processor(images, do_rescale=False, do_normalize=False, return_tensors="np")
    return np.asarray(resized["pixel_values"]).round().clip(0, 255).astype(np.uint8)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB: transparency on white, grey as three equal channels."""
    if image.mode == "P" or "A" in image.mode:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")
