"""Conversion of GGUF files to folders for ``from_pretrained``, done once and cached."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import torch
from huggingface_hub import cached_assets_path
from transformers import AutoModelForCausalLM, AutoTokenizer

from flwr_decaf.atomic import replacing
from flwr_decaf.extras import require_extra


def converted(file: Path) -> Path:
    """Convert a GGUF file to a folder with weights in safetensors, config and tokenizer.

    transformers reads GGUF only slowly, and treats the model as quantized, so that it cannot be
    saved. The folder is in the hub's asset cache (``HF_HOME``), under a hash of the file.

    Parameters
    ----------
    file : Path
        GGUF file of a causal language model.

    Returns
    -------
    Path
        The folder, in which each weight takes 4 bytes.

    Raises
    ------
    OSError
        If there is no such file.
    ValueError
        If the package gguf is not installed.
    """
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()[:16]
    folder = cached_assets_path("flwr-decaf", namespace="gguf") / f"{file.stem}-{digest}"
    if not folder.exists():
        try:
            with replacing(folder) as unfinished:
                unfinished.mkdir()
                _convert(file, unfinished)
        except OSError:
            if not folder.exists():  # otherwise, another process has created it
                raise
    return folder


def _convert(file: Path, folder: Path) -> None:
    require_extra("gguf", f"model.name = {file}")
    origin, name = str(file.parent), file.name
    read = AutoModelForCausalLM.from_pretrained(origin, gguf_file=name, dtype=torch.float32)
    # Create a model with the same weights that is not marked as quantized.
    config = copy.copy(read.config)
    del config.quantization_config
    with torch.device("meta"):  # takes no memory, since two copies may not fit
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(origin, gguf_file=name).save_pretrained(folder)
