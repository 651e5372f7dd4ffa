"""Everything that settings refer to by name, and the module that implements it.

To add a strategy, rule or task, write one file, one line here, and one row in its conformance
tests. The tables below map names to import paths and import nothing: torch, transformers and PEFT
take seconds to import, and checking settings must not wait for them. The package that looks names
up creates the ``Registry`` with the type of its objects, e.g. ``rules.RULES``. (Graphs and weights
import quickly; their tables are ``TOPOLOGIES``, ``WEIGHTS`` and ``TIME_VARYING`` in topology/.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TypeVar, cast

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """A mapping from names to objects, which are imported on first use.

    Parameters
    ----------
    paths : mapping of str to str
        Name -> ``"module:attribute"``, imported when the name is looked up.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = dict(paths)

    def __getitem__(self, name: str) -> T:
        """Import and return the object of a name."""
        module, _, attribute = self._paths[name].partition(":")
        return cast(T, getattr(import_module(module), attribute))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in the order in which help and errors list them."""
        return iter(self._paths)

    def __contains__(self, name: object) -> bool:
        """Look for a name without importing anything."""
        return name in self._paths

    def __len__(self) -> int:
        """Count the names."""
        return len(self._paths)


# How a node mixes its neighbours' states by its row of W: tests/rules/test_conformance.py.
RULES = {
    "average": "flwr_decaf.rules.average:average",  # DLoRA
    "factorize": "flwr_decaf.rules.factorize:factorize",  # DeCAF
    "frozen": "flwr_decaf.rules.frozen:frozen",  # DLoRA-FA
    # DIMAT, of states that the client has aligned: see matching/
    "matched": "flwr_decaf.rules.average:average",
}

# How a rule is protected: (rule, number of Byzantine neighbours) -> rule.
ROBUST = {
    "none": "flwr_decaf.rules.contract:unprotected",
    "clipping": "flwr_decaf.rules.clipping:clipping",
    "trimmed-mean": "flwr_decaf.rules.trimmed_mean:trimming",
}

# A rule, a schedule and default weights: tests/strategies/conformance.py.
STRATEGIES = {
    "decaf": "flwr_decaf.strategies:DeCAF",
    "dlora": "flwr_decaf.strategies:DLoRA",
    "dlora-fa": "flwr_decaf.strategies:DLoRAFA",
    "dec-lora": "flwr_decaf.strategies:DecLoRA",
    "tad-lora": "flwr_decaf.strategies:TADLoRA",
    "dimat": "flwr_decaf.strategies:DIMAT",
    "relay-sum": "flwr_decaf.strategies:RelaySum",
    "gradient-tracking": "flwr_decaf.strategies:GradientTracking",
    "local-only": "flwr_decaf.strategies:LocalOnly",
    "fedavg": "flwr_decaf.strategies:FedAvg",
    "centralized": "flwr_decaf.strategies:Centralized",
}

# Settings -> a model, its batches and its scores.
TASKS = {
    "text-classification": "flwr_decaf.clients.tasks.text_classification:build",
    "causal-lm": "flwr_decaf.clients.tasks.causal_lm:build",
    "image-classification": "flwr_decaf.clients.tasks.image_classification:build",
    "clip": "flwr_decaf.clients.tasks.clip:build",
    "cnn": "flwr_decaf.clients.tasks.cnn:build",
}

# The columns that each task reads: tests/data/test_columns.py.
COLUMNS = {
    "text-classification": "flwr_decaf.data.columns:texts",
    "causal-lm": "flwr_decaf.data.columns:dialogues",
    "image-classification": "flwr_decaf.data.columns:images",
    "clip": "flwr_decaf.data.columns:captions",
    "cnn": "flwr_decaf.data.columns:images",
}

# Data sets that are loaded without a network connection: tests/data/test_sources.py.
DEMO_SETS = {"20newsgroups": "flwr_decaf.data.sources:newsgroups"}

# Suffixes of data files, and the readers of ``datasets`` for them: flwr_decaf/data/files.py.
READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}

# How rows are partitioned over n nodes: tests/data/test_partitions.py.
PARTITIONERS = {
    "iid": "flwr_decaf.data.partitioners:iid",
    "stratified": "flwr_decaf.data.partitioners:stratified",
    "dirichlet": "flwr_decaf.data.partitioners:dirichlet",
    "pathological": "flwr_decaf.data.partitioners:pathological",
    "shards": "flwr_decaf.data.partitioners:shards",
    "natural": "flwr_decaf.data.partitioners:natural",
    "label-skew": "flwr_decaf.data.partitioners:label_skew",
}

# How a batch of images is augmented in training.
AUGMENTATIONS = {
    "none": "flwr_decaf.data.augmentation:unchanged",
    "flip": "flwr_decaf.data.augmentation:flip",
    "shift": "flwr_decaf.data.augmentation:shift",
    "flip-shift": "flwr_decaf.data.augmentation:flip_shift",
    "random-resized-crop": "flwr_decaf.data.augmentation:random_resized_crop",
}

# The learning rate's scheduler in a round:
# (optimizer, round from 1, rounds, steps of the round, steps of the warm-up).
LEARNING_RATES = {
    "constant": "flwr_decaf.clients.learning_rate:constant",
    "cosine": "flwr_decaf.clients.learning_rate:cosine",
    "cosine-per-round": "flwr_decaf.clients.learning_rate:cosine_per_round",
    "linear": "flwr_decaf.clients.learning_rate:linear",
    "constant-with-warmup": "flwr_decaf.clients.learning_rate:constant_with_warmup",
    "cosine-with-warmup": "flwr_decaf.clients.learning_rate:cosine_with_warmup",
    "inverse-sqrt": "flwr_decaf.clients.learning_rate:inverse_sqrt",
}

# Where metrics are written in addition to the run folder; each needs the extra of its name.
TRACKERS = {
    "tensorboard": "flwr_decaf.runs.trackers:tensorboard",
    "wandb": "flwr_decaf.runs.trackers:wandb",
    "mlflow": "flwr_decaf.runs.trackers:mlflow",
}

# The dtypes that models compute in.
PRECISIONS = {"fp32": "torch:float32", "bf16": "torch:bfloat16", "fp16": "torch:float16"}
# The dtypes that posts travel in: see messages/quantization.py.
POST_DTYPES = ("fp32", "bf16", "int8")
POST_ENCRYPTION = ("none", "x25519")
DEVICES = ("auto", "cpu", "cuda", "mps")
