"""Features of texts that are fixed during a run, such as class prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import normalize

from flwr_decaf.clients.models.encoders import evaluating
from flwr_decaf.clients.models.hardware import to_device
from flwr_decaf.clients.tasks.contract import Batch


def text_side(model: PeftModel) -> list[Tensor]:
    """List the parameters that text features depend on."""
    base = model.get_base_model()
    return [*base.text_model.parameters(), *base.text_projection.parameters()]


def text_features(model: PeftModel, batch: Batch) -> Tensor:
    """Encode a batch of texts: (rows, width), of norm 1."""
    output = model.get_text_features(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    )
    return unit_features(output)


def unit_features(output: Any) -> Tensor:
    """Extract the features from the output of a CLIP encoder: (rows, width), of norm 1.

    They are in fp32, whatever the base's dtype, since a logit scale of 100 amplifies rounding.
    """
    return normalize(getattr(output, "pooler_output", output).float(), dim=-1)


class FixedTexts:
    """Texts whose features are recomputed only when the text encoder has changed.

    If the text encoder is trained, all features are recomputed once per step, with gradients;
    otherwise, they are computed only once. In an evaluation, they are computed once for all
    batches.

    Parameters
    ----------
    texts : sequence of sequence of str
        The texts of each class (or caption); its features are the normalized mean over its texts.
    tokenizer : PreTrainedTokenizer
        The model's own tokenizer.
    max_length : int
        Number of tokens to which each text is truncated.
    """

    def __init__(self, texts: Sequence[Sequence[str]], tokenizer: Any, max_length: int) -> None:
        every = [text for group in texts for text in group]
        self._count = len(texts)
        self._batch = dict(
            tokenizer(
                every, padding=True, truncation=True, max_length=max_length, return_tensors="pt"
            )
        )
        self._cached: tuple[tuple[object, ...], Tensor] | None = None

    def features(self, model: PeftModel) -> Tensor:
        """Return the features of all classes, of norm 1: (classes, width)."""
        side = text_side(model)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in side):
            return self._compute(model)
        # A tensor counts its in-place modifications, such as optimizer steps and copies.
        state = (side[0].device, torch.is_autocast_enabled(side[0].device.type))
        version = (*state, *(tensor._version for tensor in side))
        if self._cached is None or self._cached[0] != version:
            # Cached features must not depend on the step that computed them.
            with evaluating(model.get_base_model().text_model), torch.no_grad():
                self._cached = (version, self._compute(model))
        return self._cached[1]

    def _compute(self, model: PeftModel) -> Tensor:
        batch = to_device(self._batch, text_side(model)[0].device)
        each = text_features(model, batch)
        return normalize(each.view(self._count, -1, each.shape[-1]).mean(dim=1), dim=-1)
