"""What may leave a node that has rows of its own, and which files a run's settings may open there.

Settings come from whoever starts a run. Names of classes are values of a column, so the node's own
node-config must name the column, or the settings must list the classes. No error quotes a value.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from datasets import DatasetDict

from flwr_decaf.data.labels import labels_in, names_in
from flwr_decaf.data.own_files import OwnFiles
from flwr_decaf.data.sources import DEMO_SETS
from flwr_decaf.text import is_hub_id, quoted, split_list

if TYPE_CHECKING:
    from flwr_decaf.config import Data

_log = logging.getLogger("flwr")
_MOST_CLASSES = 10_000
_LONGEST_NAME = 200  # characters


def check_common_test(data: Data, files: OwnFiles) -> None:
    """Refuse a common test set that is a file or folder of this machine.

    ``data.name`` is part of the settings of a run, which must not choose what is read on a node
    with its own files. It may name a hub id or an installed package.

    Raises
    ------
    ValueError
        If it is one, unless the files belong to whoever starts the run.
    """
    name = data.name
    if not name or files.own_run or name in DEMO_SETS or name.startswith("package:"):
        return
    if not is_hub_id(name):
        raise ValueError(
            f"data.name must be a hub id, or empty, at nodes with a data-path; got {quoted([name])}"
            "; upload the common test set, or give each node a test-path in --node-config"
        )


def reported_classes(data: Data, files: OwnFiles, splits: DatasetDict) -> list[str]:
    """Return the names of classes that a node reports: none if the settings list them.

    Parameters
    ----------
    data : config.Data
        Settings, with a label column.
    files : OwnFiles
        The node's files.
    splits : DatasetDict
        The rows of these files, whose column of classes is called "label".

    Raises
    ------
    ValueError
        If nothing permits the node to report the names, one of them is unusable, or a row has a
        class that the settings do not list.
    """
    listed = split_list(data.classes)
    may_name = bool(files.label_column) or files.own_run
    if not (listed or may_name):
        raise ValueError(
            "label-column must be in the node-config, which permits the names in it to leave the "
            "node; it is not there; add it to --node-config, or list all classes in data.classes"
        )
    if not listed:
        names = sorted({name for rows in splits.values() for name in names_in(rows)})
        check_class_names(names)
        return names
    unlisted = sorted({name for rows in splits.values() for name in labels_in(rows)} - {*listed})
    if unlisted:
        _log.error("Not in data.classes: %s", quoted(unlisted))
        which = quoted(unlisted) if may_name else "others, which its log lists"
        raise ValueError(
            f"data.classes must list the classes of all nodes; this node has {which}; add them, or "
            "remove these rows"
        )
    return []


def check_class_names(names: Iterable[str]) -> None:
    """Refuse class names that cannot be used in ``data.classes``, or are not plausible.

    Raises
    ------
    ValueError
        If there are too many, or one is too long or has a comma, a line break or outer spaces.
    """
    names = list(names)
    if len(names) > _MOST_CLASSES:
        raise ValueError(
            f"the label column must be one of at most {_MOST_CLASSES} classes; got {len(names)} "
            "different values; name another column"
        )
    bad = [name for name in names if not _is_class_name(name)]
    if bad:  # not quoted: they may be rows if the wrong column is named
        raise ValueError(
            f"names of classes must have 1 to {_LONGEST_NAME} characters, and no commas, line "
            f"breaks or outer spaces; {len(bad)} of {len(names)} different values break this rule; "
            "rename these classes, or name another column"
        )


def _is_class_name(name: str) -> bool:
    return split_list(name) == [name] and name.isprintable() and len(name) <= _LONGEST_NAME
