"""GGUF files as a folder that ``from_pretrained`` takes, converted once and kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from huggingface_hub import cached_assets_path
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from flwr_decaf.atomic import replacing
from flwr_decaf.extras import require_extra


def converted(file: Path) -> Path:
    """Convert a GGUF file to a folder with weights in safetensors, config and tokenizer.

    transformers reads GGUF, but slowly, into a model that it takes for quantized and will not
    save. The folder lies among the hub's cached assets (``HF_HOME``), by the file's content.

    Parameters
    ----------
    file : Path
        Of a causal language model.

    Returns
    -------
    Path
        Of the folder. Weights take 4 bytes each in it.

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
            if not folder.exists():  # else another process was first
                raise
    return folder


def _convert(file: Path, folder: Path) -> None:
    require_extra("gguf", f"model.name = {file}")
    origin, name = str(file.parent), file.name
    read = AutoModelForCausalLM.from_pretrained(origin, gguf_file=name, dtype=torch.float32)
    config = AutoConfig.from_pretrained(origin, gguf_file=name)
    # A model of the same weights that knows nothing of where they came from.
    with torch.device("meta"):  # it takes over the weights; two copies might not fit
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(origin, gguf_file=name).save_pretrained(folder)
