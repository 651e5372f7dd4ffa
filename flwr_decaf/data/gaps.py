"""Rows whose text or label is empty, which are left out of every data set.

A label of -1 in a column of numbered classes also counts as empty: ``datasets`` marks it this way.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from datasets import ClassLabel, Dataset, DatasetDict


def without_gaps(splits: DatasetDict, wanted: Collection[str], key: str, name: str) -> DatasetDict:
    """Omit rows with an empty value; a split without such rows stays the same object.

    Parameters
    ----------
    splits : DatasetDict
        The rows.
    wanted : collection of str
        Columns that must not be empty, if they exist.
    key, name : str
        The setting that names the data set, and the data set's name, for the error.

    Raises
    ------
    ValueError
        If no row of a split is left.
    """
    kept = DatasetDict()
    for split, rows in splits.items():
        columns = [column for column in rows.column_names if column in wanted]
        filled = _without_gaps(rows, columns) if columns else rows
        if not len(filled):
            raise ValueError(
                f"{key} must have rows with a {' and a '.join(columns)}; got {name!r}, "
                f"whose split {split} has none among {len(rows)} rows; fill the columns, or choose "
                "another split with data.test-split"
            )
        kept[split] = filled if len(filled) < len(rows) else rows
    return kept


def _without_gaps(rows: Dataset, columns: Sequence[str]) -> Dataset:
    numbered = [isinstance(rows.features[column], ClassLabel) for column in columns]
    return rows.filter(
        _filled, batched=True, input_columns=columns, fn_kwargs={"numbered": numbered}
    )


def _filled(*columns: list[object], numbered: Sequence[bool]) -> list[bool]:
    return [all(map(_is_filled, row, numbered)) for row in zip(*columns, strict=True)]


def _is_filled(value: object, is_numbered: bool) -> bool:
    if value is None or not str(value).strip():
        return False
    return not (is_numbered and isinstance(value, int) and value < 0)
