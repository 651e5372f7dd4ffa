"""Where a node's own rows are: in files that its SuperNode's node-config names.

    --node-config 'partition-id=0 num-partitions=4 data-path="/data/reviews.csv"'

Only the node's own machine says so: no message and no setting of a run can name a path. In a
simulation, whose nodes have no such file names, ``flwr-decaf run --node-data`` sets the environment
variable ``NODE_DATA``. This module imports nothing heavy, since ``peer_mixing`` uses it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

NODE_DATA = "FLWR_DECAF_NODE_DATA"  # path with {} in place of the partition-id
DATA_PATH = "data-path"


@dataclass(frozen=True)
class OwnFiles:
    """A node's own files, and their columns where they have other names than in the settings.

    Each attribute is a key of the node-config, with dashes.

    Attributes
    ----------
    data_path : str
        A file or folder that ``own_rows.describe`` can read.
    test_path : str
        Another one with the node's test rows; by default, they come from ``data_path``.
    text_column, image_column, label_column : str
        Names of the columns in these files; by default those of the settings.
    """

    data_path: str
    test_path: str = ""
    text_column: str = ""
    image_column: str = ""
    label_column: str = ""


def has_own_files(node_config: Mapping[str, object]) -> bool:
    """Return whether a node has rows of its own."""
    return DATA_PATH in node_config or NODE_DATA in os.environ


def own_files(node_config: Mapping[str, object]) -> OwnFiles | None:
    """Read a node's own files from its node-config; None if it has none."""
    if not has_own_files(node_config):
        return None
    given = {one.name: node_config.get(one.name.replace("_", "-")) for one in fields(OwnFiles)}
    named = {name: str(value) for name, value in given.items() if value is not None}
    if "data_path" not in named:
        named["data_path"] = path_of(os.environ[NODE_DATA], node_config["partition-id"])
    return OwnFiles(**named)


def path_of(pattern: str, place: object) -> str:
    """Fill a pattern of paths with a node's position.

    Examples
    --------
    >>> path_of("data/node-{}.csv", 2)
    'data/node-2.csv'
    """
    return pattern.replace("{}", str(place))
