"""A node's own rows, read from its own files instead of a share of a common data set.

Columns are renamed as in the settings, and classes get the numbers on which all nodes have agreed
(``data.classes``); from then on, the rows are like those of any other node.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError

from flwr_decaf.caches import private_folder
from flwr_decaf.data.columns import COLUMNS
from flwr_decaf.data.disclosure import check_common_test, reported_classes
from flwr_decaf.data.files import by_split_column, read_file
from flwr_decaf.data.gaps import without_gaps
from flwr_decaf.data.labels import names_in, numbered_as
from flwr_decaf.data.own_files import OwnFiles
from flwr_decaf.data.partitions import NodeData, hold_out
from flwr_decaf.data.sources import load_rows, sample
from flwr_decaf.registries import READERS
from flwr_decaf.seeds import derive_seed
from flwr_decaf.text import quoted, split_list

if TYPE_CHECKING:
    from flwr_decaf.config import Data, Model

_log = logging.getLogger("flwr")


@dataclass(frozen=True)
class RowFacts:
    """What a node reports to the ServerApp about its own rows, which stay at the node.

    Attributes
    ----------
    train, test : int
        Numbers of rows; ``test`` is 0 if the local test set is held out from the others.
    skipped : int
        Number of rows that are left out because their text or label is empty.
    classes : tuple of str
        Names of the classes; empty if there are none, or ``data.classes`` lists them.
    """

    train: int
    test: int
    skipped: int
    classes: tuple[str, ...] = ()


def describe(model: Model, data: Data, files: OwnFiles) -> RowFacts:
    """Read a node's files, and check everything that does not need the model.

    Names of classes are values of a column, so they leave the node only if whoever runs the node
    names this column in the node-config. Otherwise, ``data.classes`` must list the classes, and the
    node only checks that it has no others. No error quotes a value.

    Parameters
    ----------
    model, data : config.Model, config.Data
        Settings: the task, its columns, and the share of the local test.
    files : OwnFiles
        A CSV, TSV, JSON or Parquet file, or a folder that ``datasets.load_dataset`` accepts, such
        as one of images by class.

    Raises
    ------
    ValueError
        If a file cannot be read, lacks a column, or has too few rows or unusable classes; or if the
        node may not report its classes, or may not read what ``data.name`` names.
    """
    check_common_test(data, files)
    whole = _named(data, files)
    for rows in whole.values():
        _check_task_columns(model, data, files, rows)
    splits = _filled(data, files, whole)
    needed = 2 if data.local_test_share > 0 and "test" not in splits else 1
    if len(splits["train"]) < needed:
        raise ValueError(
            f"data-path must have at least {needed} rows (one is held out as the local test); got "
            f"{len(splits['train'])} in {_shown(files)}; add rows, or name a test-path"
        )
    classes = reported_classes(data, files, splits) if data.label_column else []
    sizes = {split: len(rows) for split, rows in splits.items()}
    skipped = sum(map(len, whole.values())) - sum(sizes.values())
    return RowFacts(sizes["train"], sizes.get("test", 0), skipped, tuple(classes))


@lru_cache(maxsize=256)
def own_data(data: Data, files: OwnFiles, node: int, seed: int) -> NodeData:
    """Return a node's own rows; the classes are numbered as in ``data.classes``.

    The local test set is the "test" or "validation" split of the node's files, or ``test_path``, or
    otherwise a share of its rows, as in ``partitions.node_data``.
    """
    splits = _filled(data, files, _named(data, files))
    if data.label_column:
        names = split_list(data.classes)
        splits = DatasetDict({split: numbered_as(rows, names) for split, rows in splits.items()})
    train, local_test = splits["train"], splits.get("test")
    if local_test is None:
        own_seed = derive_seed(seed, "local test", node)
        train, local_test = hold_out(train, data.local_test_share, own_seed)
    return NodeData(
        train=train,
        local_test=sample(local_test, data.max_local_test_samples, seed=0),
        test=load_rows(data, seed)["test"],
    )


def _named(data: Data, files: OwnFiles) -> DatasetDict:
    """Read the splits "train" and, if there is one, "test", with the columns of the settings."""
    found = _open("data-path", files.data_path)
    if "train" not in found:
        raise ValueError(
            f"data-path must have rows to train on; got {_shown(files)} with the splits "
            f"{quoted(found)}; call one of them train"
        )
    test = _open("test-path", files.test_path) if files.test_path else found
    held_out = ["test", "validation", *(["train"] if files.test_path else [])]
    tests = [test[split] for split in held_out if split in test]
    splits = {"train": found["train"], **({"test": tests[0]} if tests else {})}
    return DatasetDict({split: _renamed(data, files, rows) for split, rows in splits.items()})


def _open(key: str, path: str) -> DatasetDict:
    file = Path(path)
    if not (file.is_dir() or (file.suffix in READERS and file.is_file())):
        raise ValueError(
            f"{key} must be a folder, or a file ending in {', '.join(READERS)}, on the node's "
            f"machine; {quoted([file.name])} is not; give its full path in --node-config"
        )
    try:
        cache = private_folder("own-rows")
        return (
            _read_folder(file, cache) if file.is_dir() else by_split_column(read_file(file, cache))
        )
    except (DatasetGenerationError, OSError) as error:
        # The cause may quote rows, which must not be sent to the server.
        cause = error.__cause__ or error
        _log.error("%s: %s cannot be read: %s", key, path, cause)
        raise ValueError(
            f"{key} must be readable by datasets.load_dataset; got {quoted([file.name])}, which "
            f"is not ({type(cause).__name__}); correct the file, or save it as UTF-8; the node's "
            "log has the details"
        ) from error


def _read_folder(folder: Path, cache: Path) -> DatasetDict:
    found = load_dataset(str(folder), cache_dir=cache)
    columns = next(iter(found.values())).column_names
    if columns == ["image"]:  # datasets omits the label if all images have the same one
        labelled = load_dataset(
            "imagefolder", data_dir=str(folder), drop_labels=False, cache_dir=cache
        )
        names = {name for rows in labelled.values() for name in names_in(rows)}
        return found if names & {folder.name, *found} else labelled  # folders, but not of classes
    return found


def _renamed(data: Data, files: OwnFiles, rows: Dataset) -> Dataset:
    """Give the columns the names of the settings, and the column of classes the name "label"."""
    _check_label(data, files)
    names: dict[str, str] = {}
    for key, own, common in (
        ("text-column", files.text_column, split_list(data.text_column)),
        ("image-column", files.image_column, [data.image_column]),
        ("label-column", files.label_column, ["label"] if data.label_column else []),
    ):
        _require(key, split_list(own), rows, files)
        if own and common and len(split_list(own)) != len(common):
            raise ValueError(
                f"{key} must name as many columns as data.{key}; got {own!r} for "
                f"{', '.join(common)}; change --node-config"
            )
        names |= dict(zip(split_list(own), common, strict=False))
    if data.label_column and not files.label_column:
        _require("data.label-column", [data.label_column], rows, files)
        names[data.label_column] = "label"
    changed = {own: common for own, common in names.items() if own != common}
    hidden = [name for name in changed.values() if name in rows.column_names and name not in names]
    return rows.remove_columns(hidden).rename_columns(changed)


def _check_label(data: Data, files: OwnFiles) -> None:
    label, texts = files.label_column or data.label_column, files.text_column or data.text_column
    if data.label_column and label in split_list(texts):
        raise ValueError(
            f"label-column must not be a column of texts; got {label!r} for both; name the column "
            "of the classes"
        )


def _check_task_columns(model: Model, data: Data, files: OwnFiles, rows: Dataset) -> None:
    for key, columns in COLUMNS[model.task](model, data).items():
        named = ["label" if column == data.label_column else column for column in columns]
        _require(key, named, rows, files)


def _require(key: str, columns: Iterable[str], rows: Dataset, files: OwnFiles) -> None:
    for column in columns:
        if column not in rows.column_names:
            raise ValueError(
                f"{key} must name columns of {_shown(files)}; got {column!r}; it has "
                f"{quoted(rows.column_names)}; name those of this node by text-column, "
                "image-column and label-column in --node-config"
            )


def _filled(data: Data, files: OwnFiles, splits: DatasetDict) -> DatasetDict:
    wanted = {*split_list(data.text_column), *(["label"] if data.label_column else [])}
    return without_gaps(splits, wanted, "data-path", Path(files.data_path).name)


def _shown(files: OwnFiles) -> str:
    return quoted([Path(files.data_path).name])  # its location concerns only the node
