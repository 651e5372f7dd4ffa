"""CLIP and similar models with LoRA: an image and a text encoder with a common feature space.

``model.objective = classification``: the class of an image is the one with the nearest prompts,
logits = logit scale x cosine(image features, features of the class's prompts, averaged over the
templates), as in DeCAF's vision-language runs (arXiv 2505.21382). ``contrastive``: CLIP's symmetric
loss, which matches the images and captions of a batch (arXiv 2103.00020).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModel, AutoTokenizer

from flwr_decaf.clients.models.hardware import to_device
from flwr_decaf.clients.models.pretrained import add_adapter, fingerprint, load_pretrained
from flwr_decaf.clients.tasks.contract import Batch, Task
from flwr_decaf.clients.tasks.images import ImageBatches, image_labels
from flwr_decaf.clients.tasks.scores import Sums, clip_scores, count_guesses
from flwr_decaf.clients.tasks.texts import FixedTexts, text_features, unit_features
from flwr_decaf.data.encoding import Row, encoded
from flwr_decaf.data.pixels import image_processor
from flwr_decaf.data.sources import load_rows

if TYPE_CHECKING:
    from flwr_decaf.config import Data, Lora, Model

_PROMPT = "a photo of a {label}"


class Clip:
    """Encodes images with their classes and captions, and computes losses and scores.

    Parameters
    ----------
    model, data : config.Model, config.Data
        Settings.
    tokenizer, processor
        The model's own tokenizer and image processor.
    """

    def __init__(self, model: Model, data: Data, tokenizer: Any, processor: Any) -> None:
        self.data, self.tokenizer = data, tokenizer
        self.images = ImageBatches(processor, model.name, data)
        self.contrastive = model.objective == "contrastive"
        self.labels = image_labels(data, model.task)
        self.classes = self._fixed(prompts_of(self.labels, data.prompt))
        if self.contrastive:
            # All rows of the test split: which are evaluated depends on the seed; the task must
            # not.
            every = load_rows(replace(data, max_test_samples=0), seed=0)["test"]
            captions = sorted(set(every[data.text_column]))
            self.captions = self._fixed([[caption] for caption in captions])
            self.number = {caption: place for place, caption in enumerate(captions)}

    def _fixed(self, texts: list[list[str]]) -> FixedTexts:
        return FixedTexts(texts, self.tokenizer, self.data.max_length)

    def encode(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        """Encode columns as pixels, tokens, and each caption's number in the test split."""
        made = self.images.encode(batch)
        if not self.contrastive:
            return made
        texts = batch[self.data.text_column]
        tokens = self.tokenizer(texts, truncation=True, max_length=self.data.max_length)
        caption = [self.number.get(text, -1) for text in texts]
        return made | {"input_ids": tokens["input_ids"], "caption": caption}

    def collate(self, rows: list[Row]) -> Batch:
        """Collate encoded rows to a batch."""
        batch = self.images.collate(rows)
        if not self.contrastive:
            return batch
        texts = self.tokenizer.pad(
            {"input_ids": [row["input_ids"] for row in rows]}, return_tensors="pt"
        )
        return {**batch, **texts, "caption": torch.tensor([row["caption"] for row in rows])}

    def loss(self, model: PeftModel, batch: Batch) -> Tensor:
        """Compute the training loss."""
        images = image_features(model, batch)
        if not self.contrastive:
            return cross_entropy(
                logits(model, images, self.classes.features(model)), batch["labels"]
            )
        each = logits(model, images, text_features(model, batch))
        own = torch.arange(len(each), device=each.device)
        return (cross_entropy(each, own) + cross_entropy(each.T, own)) / 2

    def tally(self, model: PeftModel, rows: list[Row], device: torch.device) -> Sums:
        """Count the predicted classes, and the images whose caption is among the nearest."""
        batch = to_device(self.collate(rows), device)
        images = image_features(model, batch)
        each = logits(model, images, self.classes.features(model))
        sums = count_guesses(each.argmax(dim=-1).tolist(), batch["labels"].tolist())
        sums |= {"loss": cross_entropy(each, batch["labels"]).item() * len(rows)}
        return sums | (self._retrieved(model, images, batch) if self.contrastive else {})

    def _retrieved(self, model: PeftModel, images: Tensor, batch: Batch) -> Sums:
        known = batch["caption"] >= 0  # captions of a node's local test may not be in the test
        each, own = images[known] @ self.captions.features(model).T, batch["caption"][known]
        nearer = (each > each.gather(1, own[:, None])).sum(dim=1)
        found = {f"within {k}": float((nearer < k).sum()) for k in (1, 5)}
        return {"queries": float(known.sum()), **found}


def build(model: Model, lora: Lora, data: Data) -> Task:
    """Load the base and add LoRA to one or both encoders.

    Raises
    ------
    ValueError
        If the model cannot be loaded or is not a CLIP model, ``lora.target-modules`` matches none
        of its layers, or the data lacks the columns.
    """
    tokenizer, processor, base = load_pretrained(
        model, AutoModel, readers=(AutoTokenizer.from_pretrained, image_processor)
    )
    if not all(hasattr(base, name) for name in ("text_projection", "visual_projection")):
        raise ValueError(
            "model.name must be a CLIP model with model.task = clip; got "
            f"{model.name!r}, a {type(base).__name__}; use e.g. openai/clip-vit-base-patch16"
        )
    clip = Clip(model, data, tokenizer, processor)
    settings = (fingerprint(tokenizer), *clip.images.settings, *_captions(clip))
    return Task(
        model=add_adapter(base, lora),
        encode=lambda rows: encoded(rows, clip.encode, *settings),
        collate=lambda rows: clip.images.augmented(clip.collate(rows)),
        length=lambda rows: [1] * len(rows),
        tally=clip.tally,
        scores=clip_scores,
        labels=tuple(clip.labels),
        loss=clip.loss,
    )


def prompts_of(labels: list[str], templates: str) -> list[list[str]]:
    """Fill the prompt templates with the name of each class.

    Parameters
    ----------
    labels : list of str
        Names of the classes; underscores are replaced by spaces.
    templates : str
        ``data.prompt``: one or more templates, separated by ``|``; if empty, CLIP's own.

    Returns
    -------
    list of list of str
        The prompts of each class.

    Raises
    ------
    ValueError
        If a template lacks ``{label}``, or has other fields.
    """
    written = [template.strip() for template in (templates or _PROMPT).split("|")]
    for template in written:
        if "{" in template.replace("{label}", "") or "{label}" not in template:
            raise ValueError(
                "data.prompt must contain {label} and no other field with model.task = clip; got "
                f"{template!r}; write e.g. 'a photo of a {{label}}'"
            )
    names = [label.replace("_", " ") for label in labels]
    return [[template.replace("{label}", name) for template in written] for name in names]


def image_features(model: PeftModel, batch: Batch) -> Tensor:
    """Encode a batch of images: (rows, width), of norm 1."""
    output = model.get_image_features(pixel_values=batch["pixel_values"])
    return unit_features(output)


def logits(model: PeftModel, images: Tensor, texts: Tensor) -> Tensor:
    """Compare images with texts: logit scale x cosine, (images, texts)."""
    scale: Tensor = model.get_base_model().logit_scale.exp()
    return scale * images @ texts.T


def _captions(clip: Clip) -> tuple[object, ...]:
    """List everything that the encoding of captions depends on."""
    if not clip.contrastive:
        return ()
    return clip.data.text_column, clip.data.max_length, tuple(clip.number)
