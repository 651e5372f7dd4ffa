"""Pictures as pixels: resized once and kept as bytes, normalized batch by batch.

Resizing and cropping are those of the model's own image processor by transformers, with pillow
rather than torchvision, so that every machine makes the same pixels.
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
    """Load a model's image processor."""
    return AutoImageProcessor.from_pretrained(folder, backend="pil")


@dataclass(frozen=True)
class Pixels:
    """The way from pictures to batches.

    Attributes
    ----------
    processor : BaseImageProcessor
        The model's own.
    shape : tuple of int
        (channels, height, width) of every picture once it is made ready.
    """

    processor: Any
    shape: Shape

    @classmethod
    def of(cls, processor: Any, name: str) -> Pixels:
        """Find the shape to which an image processor brings all pictures.

        Raises
        ------
        ValueError
            If it keeps their proportions, so that they do not fit into a batch.
        """
        tried = [_resized(processor, [Image.new("RGB", size)]) for size in ((40, 80), (80, 40))]
        if tried[0].shape != tried[1].shape:
            raise ValueError(
                "model.name must bring all pictures to one size; got "
                f"{name!r}, whose image processor keeps their proportions; set a size with height "
                "and width, or a centre crop, in its preprocessor_config.json"
            )
        return cls(processor, tried[0].shape[1:])

    def encode(self, images: Sequence[Image.Image]) -> list[bytes]:
        """Resize and crop; a byte for each value, in the order of ``shape``."""
        return [x.tobytes() for x in _resized(self.processor, [in_colour(i) for i in images])]

    def batch(self, rows: Sequence[Row]) -> Tensor:
        """Stack and normalize: (rows, channels, height, width) in fp32."""
        values = np.frombuffer(b"".join(row["pixels"] for row in rows), dtype=np.uint8)
        pixels = torch.tensor(values.reshape(len(rows), *self.shape), dtype=torch.float32)
        if self.processor.do_rescale:
            pixels *= self.processor.rescale_factor
        if self.processor.do_normalize:
            mean, spread = (
                torch.tensor(x).view(-1, 1, 1)
                for x in (self.processor.image_mean, self.processor.image_std)
            )
            pixels = (pixels - mean) / spread
        return pixels


def _resized(processor: Any, images: list[Image.Image]) -> np.ndarray:
    made = processor(images, do_rescale=False, do_normalize=False, return_tensors="np")
    return np.asarray(made["pixel_values"]).round().clip(0, 255).astype(np.uint8)


def in_colour(image: Image.Image) -> Image.Image:
    """Put what is transparent on white, and grey into three channels."""
    if image.mode == "P" or "A" in image.mode:
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return image.convert("RGB")
