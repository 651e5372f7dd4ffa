"""Where a node's own rows are: in files that its SuperNode's node-config names.

    --node-config 'partition-id=0 num-partitions=4 data-path="/data/reviews.csv"'

Only the node's own machine can name these files; no message and no setting of a run can. For nodes
on its own machine, ``flwr-decaf run --node-data`` sets the environment variable ``NODE_DATA``. This
module imports nothing heavy, since ``peer_mixing`` uses it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

NODE_DATA = "FLWR_DECAF_NODE_DATA"  # path with {} in place of the partition-id
DATA_PATH = "data-path"


@dataclass(frozen=True)
class OwnFiles:
    """A node's own files, and those of their columns whose names differ from the settings.

    All attributes except the last are keys of the node-config, with dashes.

    Attributes
    ----------
    data_path : str
        A file or folder that ``own_rows.describe`` can read.
    test_path : str
        A file or folder with the node's test rows; by default, these come from ``data_path``.
    text_column, image_column, label_column : str
        Names of the columns in these files; by default those of the settings. By naming
        ``label_column``, whoever runs the node permits the names in it to leave the node.
    own_run : bool
        Whether the files belong to whoever starts the run (``--node-data``), whose settings then
        permit the same; by default False.
    """

    data_path: str
    test_path: str = ""
    text_column: str = ""
    image_column: str = ""
    label_column: str = ""
    own_run: bool = False


def has_own_files(node_config: Mapping[str, object]) -> bool:
    """Return whether a node has rows of its own."""
    return DATA_PATH in node_config or NODE_DATA in os.environ


def own_files(node_config: Mapping[str, object]) -> OwnFiles | None:
    """Read a node's own files from its node-config; None if it has none."""

    def named(key: str) -> str:
        return str(node_config.get(key, ""))

    if not has_own_files(node_config):
        return None
    if DATA_PATH in node_config:
        columns = (named("text-column"), named("image-column"), named("label-column"))
        return OwnFiles(named(DATA_PATH), named("test-path"), *columns)
    return local_files(os.environ[NODE_DATA], node_config["partition-id"])


def local_files(pattern: str, place: object) -> OwnFiles:
    """Return the files of a node if those of all nodes belong to whoever starts the run."""
    return OwnFiles(path_of(pattern, place), own_run=True)


def path_of(pattern: str, place: object) -> str:
    """Fill a pattern of paths with a node's position.

    Examples
    --------
    >>> path_of("data/node-{}.csv", 2)
    'data/node-2.csv'
    """
    return pattern.replace("{}", str(place))
