"""Plot of the rows of each class at each node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flwr_decaf.report.style import RC, SIZE
from flwr_decaf.runs.folder import RunFolder


def rows_by_node(folders: Sequence[RunFolder]) -> Figure | None:
    """Draw the training rows of each node, for the first run that recorded them."""
    for folder in folders:
        if "split" in folder.run:
            return draw_split(folder.run["split"]["classes"], folder.run["split"]["counts"])
    return None


def save_split(classes: Sequence[str], counts: Sequence[Sequence[int]], path: Path) -> None:
    """Draw a split to a file, whose suffix determines the format; see ``draw_split``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(RC):
        draw_split(classes, counts).savefig(path, dpi=150)


def draw_split(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Figure:
    """Draw a bar for each node, divided into the rows of each class.

    Parameters
    ----------
    classes : sequence of str
        Names of the classes.
    counts : sequence of sequence of int
        Number of rows, by node and class.
    """
    figure = Figure(SIZE, layout="constrained")
    axes, table = figure.subplots(), np.array(counts)
    shades = mpl.colormaps["tab20" if len(classes) > 10 else "tab10"]
    below = np.zeros(len(table))
    for index, name in enumerate(classes):
        colour = shades(index % shades.N)
        axes.bar(range(len(table)), table[:, index], 0.8, below, color=colour, label=name)
        below += table[:, index]
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel="node", ylabel="training rows", xlim=(-0.6, len(table) - 0.4))
    axes.margins(y=0.05)
    axes.set_axisbelow(True)
    axes.grid(visible=False, axis="x")
    if 1 < len(classes) <= 40:
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(  # in the order of the bars' parts, from the top
            handles[::-1], labels[::-1], fontsize=8, loc="upper left",
            bbox_to_anchor=(1, 1), ncols=-(-len(classes) // 20),
        )  # fmt: skip
    return figure
