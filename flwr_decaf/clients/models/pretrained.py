"""Loading of a frozen base from a hub, a folder or a package, and adding LoRA to it."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from flwr_decaf import __version__
from flwr_decaf.clients.models.adapter import remember_initial, train_in_single_precision
from flwr_decaf.clients.models.adapter_checks import (
    check_biases,
    check_initialization,
    check_modules,
    check_rank,
    leaf_names,
)
from flwr_decaf.clients.models.hardware import PRECISIONS
from flwr_decaf.data.sources import resolve_path
from flwr_decaf.extras import require_extra
from flwr_decaf.text import first_line, keyword_arguments, split_list

if TYPE_CHECKING:
    from flwr_decaf.config import Lora, Model

transformers_logging.set_verbosity_error()  # warnings about new classifiers are expected here
transformers_logging.disable_progress_bar()

DTYPES: dict[str, torch.dtype | str] = {"auto": "auto", **PRECISIONS}
# A head is trained and saved, so it must not be quantized; nor must BERT's pooler, its input.
_HEADS = ["classifier", "pre_classifier", "pooler", "score", "lm_head"]


def load_pretrained(
    model: Model,
    auto_class: Any,
    readers: Sequence[Callable[[str], Any]] = (AutoTokenizer.from_pretrained,),
    **options: Any,
) -> tuple[Any, ...]:
    """Load a base model with its tokenizer or image processor.

    Parameters
    ----------
    model : config.Model
        ``name``: a hub id, a folder, a GGUF file, or ``package:IMPORT_NAME/FOLDER``;
        ``quantization``: see ``quantization_config``; ``dtype``: the dtype of weights that are not
        quantized.
    auto_class : type
        One of transformers' AutoModelFor... classes.
    readers : sequence of callable
        Functions that load a tokenizer, an image processor, or both, from the model's folder or hub
        id; by default only the tokenizer.
    **options
        Options of ``auto_class.from_pretrained``.

    Returns
    -------
    tuple
        The results of the readers, and the model.

    Raises
    ------
    ValueError
        If one of them cannot be loaded.
    """
    quantization = quantization_config(model.quantization)
    try:
        folder = resolve_path(model.name)
        if folder.endswith(".gguf"):
            # Imported on demand, since most models are in safetensors files.
            from flwr_decaf.clients.models.gguf import converted

            folder = str(converted(Path(folder)))
        if folder.startswith(("/", ".", "~")) and not Path(folder).is_dir():
            raise FileNotFoundError(f"no such folder: {folder}")
        read = [reader(folder) for reader in readers]
        base = auto_class.from_pretrained(
            folder, quantization_config=quantization, dtype=DTYPES[model.dtype], **options
        )
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            "model.name must be a hub id, a folder of a transformers model, a GGUF file, or "
            f"package:NAME/FOLDER; got {model.name!r}, which cannot be loaded "
            f"({first_line(error)}); check the spelling and the network connection"
        ) from error
    return *read, _prepared(base) if quantization else base


def head_options(labels: Sequence[str]) -> dict[str, Any]:
    """Return the options of ``from_pretrained`` for a head with these classes."""
    numbered = dict(enumerate(labels))
    return {
        "num_labels": len(labels),
        "id2label": numbered,
        "label2id": {label: number for number, label in numbered.items()},
    }


def fingerprint(tokenizer: Any) -> str:
    """Return a hash of everything that the encoding of a text depends on, for the cache of rows."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend else repr(tokenizer)
    parts = (rules, tokenizer.chat_template, tokenizer.special_tokens_map, __version__)
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def quantization_config(name: str) -> BitsAndBytesConfig | None:
    """Return the configuration with which bitsandbytes quantizes the linear layers of a base.

    Parameters
    ----------
    name : str
        "none"; "8bit" for LLM.int8() (arXiv 2208.07339); "4bit" for NF4 with double quantization
        as in QLoRA (arXiv 2305.14314), which computes in bfloat16.

    Returns
    -------
    BitsAndBytesConfig or None
        None for "none".

    Raises
    ------
    ValueError
        If bitsandbytes is not installed.
    """
    if name == "none":
        return None
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of casts at every step
    require_extra("quantization", f"model.quantization = {name}")
    if name == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_HEADS)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=_HEADS,
    )


def _prepared(base: Any) -> Any:
    """Convert norms and heads to full precision, and keep 4-bit layers trainable."""
    for module in base.modules():
        # On CPUs with AVX512-BF16, bitsandbytes (0.50) packs a layer for inference when it is first
        # evaluated. Gradients do not flow through packed layers, silently if there is no bias.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT still asks for a renamed property
        return prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)


def add_adapter(
    base: torch.nn.Module, lora: Lora, task_type: TaskType | None = None, head: str = ""
) -> PeftModel:
    """Add LoRA to a base; trainable parameters are in fp32, whatever the base's dtype.

    Parameters
    ----------
    base : nn.Module
        The frozen base.
    lora : config.Lora
        Rank, alpha and scaling, dropout, initialization, the layers to adapt, and additional
        parameters to train.
    task_type : TaskType, optional
        PEFT's task type, which determines the head of some models.
    head : str
        Name of a new head to train and save, if ``task_type`` does not determine it; by default
        none.

    Returns
    -------
    PeftModel
        The base with its adapter.

    Raises
    ------
    ValueError
        If the base has no layer of ``lora.target-modules``, no encoder ``lora.encoder``, or a layer
        whose shorter side is smaller than its rank, or if ``lora.rank_pattern``,
        ``lora.init_lora_weights`` or ``lora.bias`` does not apply to the base.
    """
    check_modules(base, lora)
    config = _lora_config(lora, task_type, head)
    check_rank(base, config)
    check_initialization(base, config)
    check_biases(base, config)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore", FutureWarning)  # PEFT still asks for a renamed property
            torch.manual_seed(0)  # the SVD of pissa_niter_N is random, and all nodes need the same
            adapted = get_peft_model(base, config)
    except ValueError as error:
        raise ValueError(
            f"lora.target-modules must name layers of the model; got {lora.target_modules!r} "
            f"and lora.layers-to-transform {lora.layers_to_transform!r}; choose from "
            f"its linear layers: {', '.join(leaf_names(base, torch.nn.Linear))}"
        ) from error
    train_in_single_precision(adapted)
    remember_initial(adapted)
    return adapted


def _lora_config(lora: Lora, task_type: TaskType | None, head: str) -> LoraConfig:
    layers = [int(number) for number in split_list(lora.layers_to_transform)]
    heads = [*split_list(lora.modules_to_save), *([head] if head else [])]
    return LoraConfig(
        task_type=task_type,
        r=lora.rank,
        lora_alpha=lora.alpha,
        use_rslora=lora.use_rslora,
        rank_pattern=keyword_arguments(lora.rank_pattern),
        alpha_pattern=keyword_arguments(lora.alpha_pattern),
        use_dora=lora.use_dora,
        init_lora_weights=lora.init_lora_weights == "default" or lora.init_lora_weights,
        bias=lora.bias,
        lora_dropout=lora.dropout,
        target_modules=split_list(lora.target_modules) or None,
        layers_to_transform=layers or None,
        exclude_modules=_OTHER_ENCODER[lora.encoder],
        modules_to_save=heads or None,
    )


# PEFT's pattern of the encoder to exclude.
_OTHER_ENCODER = {"both": None, "vision": r".*text_model\..*", "text": r".*vision_model\..*"}
