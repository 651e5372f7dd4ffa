"""Class labels: their names and numbers, selection of classes, and few-shot sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features

from flwr_decaf.text import split_list

if TYPE_CHECKING:
    from flwr_decaf import config


def class_names(rows: Dataset, data: config.Data, needed_by: str) -> list[str]:
    """List the names of the classes by number.

    Parameters
    ----------
    rows : Dataset
        Rows as loaded, with a column "label".
    data : config.Data
        ``label_column``: the column of the classes.
    needed_by : str
        The setting that needs classes, for the error.

    Raises
    ------
    ValueError
        If ``data.label_column`` is empty.
    """
    if not data.label_column:
        raise ValueError(
            f"data.label-column must name a column of classes with {needed_by}; got ''; set it to "
            "the name of that column"
        )
    return list(rows.features["label"].names)


def few_shots(rows: Dataset, shots: int, seed: int) -> Dataset:
    """Draw ``shots`` rows of each class, for all nodes together, or all if a class has fewer."""
    order = np.random.default_rng(seed).permutation(len(rows))
    labels = np.array(rows["label"][:])[order]
    chosen = [order[labels == label][:shots] for label in np.unique(labels)]
    return rows.select(np.sort(np.concatenate(chosen)))


def numbered_classes(splits: DatasetDict, data: config.Data) -> DatasetDict:
    """Rename the label column to "label", number its classes, and keep those in ``data.classes``.

    Raises
    ------
    ValueError
        If ``data.classes`` names a class that does not exist.
    """
    splits = _with_class_labels(_named_label(splits, data.label_column))
    return _only_classes(splits, split_list(data.classes))


def _named_label(splits: DatasetDict, column: str) -> DatasetDict:
    if column == "label":
        return splits
    if "label" in splits["train"].column_names:
        splits = splits.remove_columns("label")
    return splits.rename_column(column, "label")


def _with_class_labels(splits: DatasetDict) -> DatasetDict:
    if isinstance(splits["train"].features["label"], ClassLabel):
        return splits
    names = sorted({name for rows in splits.values() for name in names_in(rows)})
    return DatasetDict({split: numbered_as(rows, names) for split, rows in splits.items()})


def names_in(rows: Dataset) -> list[str]:
    """List the classes in the column "label": those of its feature, if any, or its values."""
    feature = rows.features["label"]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    return sorted({_class_name(label) for label in rows.unique("label")})


def labels_in(rows: Dataset) -> set[str]:
    """Return only the classes that occur in the rows, unlike ``names_in``."""
    feature = rows.features["label"]
    if isinstance(feature, ClassLabel):
        return {feature.names[number] for number in rows.unique("label")}
    return set(names_in(rows))


def numbered_as(rows: Dataset, names: Sequence[str]) -> Dataset:
    """Number the classes in the column "label" by their positions in ``names``.

    Raises
    ------
    ValueError
        If a row has another class. The message does not quote it, since it may leave a node.
    """
    if unlisted := labels_in(rows) - {*names}:
        raise ValueError(
            f"data.classes must list the classes of all rows; {len(unlisted)} of them are missing; "
            "add them, or remove these rows"
        )
    feature = rows.features["label"]
    held = list(feature.names) if isinstance(feature, ClassLabel) else None
    number = {name: place for place, name in enumerate(names)}

    def numbered(label: object) -> dict[str, int]:
        return {"label": number[held[cast(int, label)] if held else _class_name(label)]}

    features = Features({**rows.features, "label": ClassLabel(names=list(names))})
    return rows.map(numbered, input_columns="label", features=features)


def no_rows(data: config.Data) -> DatasetDict:
    """Return empty splits with the classes ``data.classes``, if only nodes have rows."""
    names = split_list(data.classes)
    columns = Features({"label": ClassLabel(names=names)} if data.label_column else {})
    empty = Dataset.from_dict({name: [] for name in columns}, features=columns)
    return DatasetDict({"train": empty, "test": empty})


def _class_name(label: object) -> str:
    # pandas reads integers as floats if a cell in their column is empty.
    return str(int(label) if isinstance(label, float) and label.is_integer() else label)


def _only_classes(splits: DatasetDict, classes: list[str]) -> DatasetDict:
    """Keep the rows of the given classes, renumbered in this order; an empty list means all."""
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
