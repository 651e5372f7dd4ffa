"""The output of ``flwr-decaf data``: how a run's training rows are split over the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from flwr_decaf.config import Config, parse_config
from flwr_decaf.config.comparison import runs_of
from flwr_decaf.config.files import checked_settings
from flwr_decaf.data.partitions import Split


def first_run(conf: Path, overrides: Sequence[str], nodes: int) -> Config:
    """Read the settings of the first run of an experiment.

    Raises
    ------
    ValueError
        If a setting is wrong, or the experiment does not name a data set.
    """
    runs = runs_of(parse_config(checked_settings(conf, overrides, nodes)))
    config = next(iter(runs.values()))
    if not config.data.name:
        raise ValueError(
            "data.name must name a data set that is split over the nodes; got ''; set it, e.g. "
            "--set data.name=20newsgroups"
        )
    return config


def split_table(split: Split) -> Table:
    """Tabulate each node's number of rows, number of classes, and largest class."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("node", "rows", "classes", "largest class"):
        table.add_column(heading, justify="left" if heading == "largest class" else "right")
    for node, counts in enumerate(split.counts):
        largest, total = max(counts), sum(counts)
        present = sum(count > 0 for count in counts)
        name = f"{split.classes[counts.index(largest)]}, {100 * largest / total:.0f} %"
        table.add_row(str(node), str(total), str(present), name)
    return table
