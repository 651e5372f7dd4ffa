"""The columns that each task reads, by the settings that name them (``registries.COLUMNS``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from datasets import Dataset

from flwr_decaf import registries
from flwr_decaf.data.sources import require_columns
from flwr_decaf.data.templates import columns_of
from flwr_decaf.registries import Registry
from flwr_decaf.text import split_list

if TYPE_CHECKING:
    from flwr_decaf.config import Data, Model

Named = dict[str, list[str]]  # setting -> the columns that it names
COLUMNS: Registry[Callable[[Model, Data], Named]] = Registry(registries.COLUMNS)


def check_columns(model: Model, data: Data, rows: Dataset) -> None:
    """Require the columns that the task reads.

    Parameters
    ----------
    model, data : config.Model, config.Data
        Settings; ``data.name`` is named in the error.
    rows : Dataset
        Rows as loaded, whose class column is called "label".

    Raises
    ------
    ValueError
        If a column is missing; the message lists those that exist.
    """
    for key, columns in COLUMNS[model.task](model, data).items():
        named = ("label" if column == data.label_column else column for column in columns)
        require_columns(key, named, rows, data)


def texts(model: Model, data: Data) -> Named:
    """Return the column of texts, or the two columns of a pair."""
    return {"data.text-column": split_list(data.text_column)}


def images(model: Model, data: Data) -> Named:
    """Return the column of images."""
    return {"data.image-column": [data.image_column]}


def captions(model: Model, data: Data) -> Named:
    """Return the column of images, and that of their captions if the loss compares them."""
    paired = {"data.text-column": [data.text_column]} if model.objective == "contrastive" else {}
    return images(model, data) | paired


def dialogues(model: Model, data: Data) -> Named:
    """Return the column of conversations, or the columns in the templates."""
    if data.messages_column:
        return {"data.messages-column": [data.messages_column]}
    templates = {"data.prompt": data.prompt, "data.response": data.response}
    return {f"{key}, in braces,": columns_of(template) for key, template in templates.items()}
