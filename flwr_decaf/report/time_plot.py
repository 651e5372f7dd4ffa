"""Plot of the parts of a run's time."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from flwr_decaf.report.style import PART_COLOURS, SIZE
from flwr_decaf.report.timing import seconds_spent
from flwr_decaf.runs.folder import RunFolder


def time_split(folders: Sequence[RunFolder]) -> Figure | None:
    """Draw how a node's time in a round divides into training, mixing, evaluation and the rest.

    The rest, "relay, waiting", is the wall time of a round times the number of processes that
    worked in it, minus the other parts.
    """
    parts = seconds_spent(folders)
    if parts is None:
        return None
    parts.index = parts.index.map(lambda label: textwrap.fill(label, 26))
    figure = Figure(figsize=(SIZE[0], 0.9 + 0.33 * len(parts)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(parts))
    for part in parts:
        axes.barh(parts.index, parts[part], left=left, label=part, color=PART_COLOURS[str(part)])
        left += parts[part].to_numpy()
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="seconds per node and round")
    axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9)
    return figure
