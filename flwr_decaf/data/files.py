"""Data sets in a single file: its format, its split column, and why it cannot be read."""

from __future__ import annotations

from pathlib import Path

from datasets import DatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError

from flwr_decaf.registries import READERS
from flwr_decaf.text import first_line

_SPLIT = "split"


def read_file(file: Path, cache: Path | None = None) -> DatasetDict:
    """Read a file in the format that its suffix indicates.

    Parameters
    ----------
    file : Path
        The file.
    cache : Path, optional
        Folder for the Arrow copy that ``datasets`` makes; by default its own cache.

    Raises
    ------
    KeyError
        If the suffix is not in ``READERS``.
    DatasetGenerationError
        If the file does not have that format; see ``reason``.
    """
    options = {"delimiter": "\t"} if file.suffix == ".tsv" else {}
    return load_dataset(READERS[file.suffix], data_files=str(file), cache_dir=cache, **options)


def by_split_column(splits: DatasetDict) -> DatasetDict:
    """Split rows by their column "split", if "train" is one of its values.

    Raises
    ------
    ValueError
        If the column is empty in some of the rows.
    """
    rows = splits["train"]
    names = rows.unique(_SPLIT) if _SPLIT in rows.column_names else []
    if "train" not in names:
        return splits
    if None in names:
        raise ValueError(
            f'column "{_SPLIT}" must name a split in every row; it is empty in some; fill it, or '
            "rename the column, so that a test split is drawn"
        )
    return DatasetDict(
        {
            name: rows.filter(name.__eq__, input_columns=_SPLIT).remove_columns(_SPLIT)
            for name in names
        }
    )


def reason(error: DatasetGenerationError) -> str:
    """Describe in one line why a file could not be read, and how to fix it."""
    cause = error.__cause__ or error
    # UTF-16 JSON is reported as invalid JSON, UTF-16 or Latin-1 CSV by its first invalid byte.
    encoded = isinstance(cause, UnicodeDecodeError) or "Invalid value. in row 0" in str(cause)
    remedy = "save it as UTF-8 (iconv -f UTF-16 -t UTF-8)" if encoded else "correct the file"
    return f"{type(cause).__name__}: {first_line(cause)}; {remedy}"
