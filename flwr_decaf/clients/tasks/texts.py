"""Features of texts that stay the same over a run, as those of class prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import normalize

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
    """Take the features out of what CLIP's encoders return: (rows, width), of norm 1.

    In fp32, whatever the base's dtype: a logit scale of 100 makes much of their rounding.
    """
    return normalize(getattr(output, "pooler_output", output).float(), dim=-1)


class FixedTexts:
    """Texts whose features are computed again only when the text encoder has changed.

    Where it trains that is once in every step, for all texts at once and with a gradient; where it
    does not, once for all steps, and once for all batches of an evaluation.

    Parameters
    ----------
    texts : sequence of sequence of str
        For each class (or caption) its texts; the features of a class are their normalized mean.
    tokenizer : PreTrainedTokenizer
        The model's own.
    max_length : int
        Tokens to keep of each text.
    """

    def __init__(self, texts: Sequence[Sequence[str]], tokenizer: Any, max_length: int) -> None:
        every = [text for group in texts for text in group]
        self._count = len(texts)
        self._batch = dict(
            tokenizer(
                every, padding=True, truncation=True, max_length=max_length, return_tensors="pt"
            )
        )
        self._known: tuple[tuple[object, ...], Tensor] | None = None

    def features(self, model: PeftModel) -> Tensor:
        """Compute features of norm 1: (classes, width)."""
        side = text_side(model)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in side):
            return self._compute(model)
        # A tensor counts the changes that are made to it in place: optimizer steps, and copies.
        state = (side[0].device, torch.is_autocast_enabled(side[0].device.type))
        version = (*state, *(tensor._version for tensor in side))
        if self._known is None or self._known[0] != version:
            with _resting(model), torch.no_grad():
                self._known = (version, self._compute(model))
        return self._known[1]

    def _compute(self, model: PeftModel) -> Tensor:
        batch = to_device(self._batch, text_side(model)[0].device)
        each = text_features(model, batch)
        return normalize(each.view(self._count, -1, each.shape[-1]).mean(dim=1), dim=-1)


@contextmanager
def _resting(model: PeftModel) -> Iterator[None]:
    """Without dropout: what is kept must not depend on the step that happened to compute it."""
    encoder = model.get_base_model().text_model
    training = encoder.training
    encoder.eval()
    try:
        yield
    finally:
        encoder.train(training)
