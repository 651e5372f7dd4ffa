"""Image classification with networks that are trained in full and from scratch, for DIMAT."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch  # the name that torch.export of PyTorch 2.6 looks up in this module
from torch.nn.functional import cross_entropy
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessorPil,
)
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from flwr_decaf.clients.models.networks import NETWORKS
from flwr_decaf.clients.tasks.contract import Task
from flwr_decaf.clients.tasks.images import ImageBatches, classification, image_labels

if TYPE_CHECKING:
    from flwr_decaf.config import Data, Lora, Model

_CHANNELS = 3  # the three channels of a grey image are equal
_WIDTHS = {"resnet-20": 16, "mlp": 256}  # by default 64, as published


class CnnConfig(PreTrainedConfig):  # type: ignore[misc]
    """Configuration of a network in ``NETWORKS``."""

    model_type = "flwr-decaf-cnn"

    def __init__(
        self,
        network: str = "resnet-20",
        image_size: int = 32,
        width: int = 16,
        **kwargs: Any,
    ) -> None:
        self.network, self.image_size, self.width = network, image_size, width
        super().__init__(**kwargs)


class CnnForImageClassification(PreTrainedModel):  # type: ignore[misc]
    """A network in ``NETWORKS`` that transformers can save and load."""

    config_class = CnnConfig
    main_input_name = "pixel_values"

    def __init__(self, config: CnnConfig) -> None:
        super().__init__(config)
        build_network = NETWORKS[config.network]
        self.network = build_network(_CHANNELS, config.image_size, config.width, config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None
    ) -> ImageClassifierOutputWithNoAttention:
        """Compute the logits, and the loss if labels are given."""
        logits = self.network(pixel_values)
        loss = None if labels is None else cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


def _small(model: Model, data: Data, **options: Any) -> PreTrainedModel:
    width = model.width or _WIDTHS.get(model.name, 64)
    return CnnForImageClassification(
        CnnConfig(network=model.name, image_size=data.image_size, width=width, **options)
    )


def _resnet_18(model: Model, data: Data, **options: Any) -> PreTrainedModel:
    width = model.width or 64
    sizes = [width << stage for stage in range(4)]
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=width, hidden_sizes=sizes, depths=[2, 2, 2, 2], layer_type="basic",
            **options,
        )
    )  # fmt: skip


def _resnet_50(model: Model, data: Data, **options: Any) -> PreTrainedModel:
    width = model.width or 64
    sizes = [4 * width << stage for stage in range(4)]
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=width, hidden_sizes=sizes, depths=[3, 4, 6, 3], **options)
    )


MODELS: dict[str, Callable[..., PreTrainedModel]] = {
    **dict.fromkeys(NETWORKS, _small),
    "resnet-18": _resnet_18,
    "resnet-50": _resnet_50,
}


def build(model: Model, lora: Lora, data: Data) -> Task:
    """Build a network with random weights; rows are encoded as pixels.

    Raises
    ------
    ValueError
        If there is no such network, or the data lacks the columns.
    """
    _check(model)
    labels = image_labels(data, model.task)
    side = {"height": data.image_size, "width": data.image_size}
    processor = ViTImageProcessorPil(size=side)  # resizes images, and scales bytes to -1 .. 1
    network = MODELS[model.name](model, data, num_labels=len(labels))
    return classification(network, ImageBatches(processor, model.name, data), labels)


def _check(model: Model) -> None:
    if model.name not in MODELS:
        raise ValueError(
            f"model.name must be one of {', '.join(MODELS)} with model.task = cnn; got "
            f"{model.name!r}; choose one of these"
        )
    for key, value, needed in (
        ("quantization", model.quantization, "none"),
        ("dtype", model.dtype, "fp32"),
    ):
        if value != needed:
            raise ValueError(
                f"model.{key} must be {needed} with model.task = cnn, which trains whole models; "
                f"got {value!r}; use train.precision instead"
            )
