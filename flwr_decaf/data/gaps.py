"""Rows whose text or label is empty, which are left out of every data set."""

from __future__ import annotations

from collections.abc import Collection

from datasets import DatasetDict


def without_gaps(splits: DatasetDict, wanted: Collection[str], key: str, name: str) -> DatasetDict:
    """Leave out rows with an empty value; a split without such rows stays the same object.

    Parameters
    ----------
    splits : DatasetDict
        The rows.
    wanted : collection of str
        Columns that must not be empty, as far as they exist.
    key, name : str
        The setting that names the data set, and its name, for the error.

    Raises
    ------
    ValueError
        If no row of a split is left.
    """
    kept = DatasetDict()
    for split, rows in splits.items():
        columns = [column for column in rows.column_names if column in wanted]
        filled = rows.filter(_filled, batched=True, input_columns=columns) if columns else rows
        if not len(filled):
            raise ValueError(
                f"{key} must have rows with a {' and a '.join(columns)}; got {name!r}, "
                f"whose split {split} has none among {len(rows)} rows; fill the columns, or choose "
                "another split with data.test-split"
            )
        kept[split] = filled if len(filled) < len(rows) else rows
    return kept


def _filled(*columns: list[object]) -> list[bool]:
    return [
        all(value is not None and str(value).strip() for value in row)
        for row in zip(*columns, strict=True)
    ]
