"""Gradient checkpointing: layers are computed again in the backward pass (arXiv 1604.06174)."""

from __future__ import annotations

import warnings
from typing import Any

from peft import PeftModel
from torch import nn

_NON_REENTRANT = {"use_reentrant": False}  # works if the inputs of a layer have no gradient


def checkpoint_gradients(model: nn.Module, wanted: bool) -> None:
    """Enable or disable gradient checkpointing in the layers of a transformers model.

    It applies in training only, to layers in training mode. Results do not change, dropout
    included.

    Raises
    ------
    ValueError
        If it is wanted, and the model does not support it.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    supported = getattr(base, "supports_gradient_checkpointing", False)
    if wanted and not supported:
        raise ValueError(
            "train.gradient-checkpointing must be false for a model that does not support it; got "
            f"true, but the model is a {type(base).__name__}; set it to false, and lower "
            "train.batch-size if memory is short"
        )
    if not supported:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers 5.0 has no other names
        if wanted:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=_NON_REENTRANT)
            base.disable_input_require_grads()  # frozen layers would keep activations
        elif base.is_gradient_checkpointing:
            base.gradient_checkpointing_disable()
