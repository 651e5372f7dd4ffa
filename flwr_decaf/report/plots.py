"""The plots of a report, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from flwr_decaf.report import curves, node_plots
from flwr_decaf.report.split_plot import rows_by_node
from flwr_decaf.report.style import RC
from flwr_decaf.report.swept import score_over_setting
from flwr_decaf.report.time_plot import time_split
from flwr_decaf.runs.folder import RunFolder

_BANDS = "Lines are means over the seeds; bands extend from the lowest seed to the highest."


class Plot(NamedTuple):
    """A plot of a report.

    Attributes
    ----------
    title : str
        Heading.
    caption : str
        What the plot shows, and how to read it.
    draw : callable
        Function from run folders to a figure, or to None if the runs have no data for it.
    """

    title: str
    caption: str
    draw: Callable[[Sequence[RunFolder]], Figure | None]


PLOTS = {
    "over-setting": Plot(
        "Score by setting", "Bars extend from the lowest seed to the highest.", score_over_setting
    ),
    "over-rounds": Plot("Score over rounds", _BANDS, curves.score_over_rounds),
    "over-bytes": Plot(
        "Score over traffic",
        "Traffic is what a node sends to its neighbours, or to and from the server under FedAvg, "
        f"since the start. {_BANDS}",
        curves.score_over_bytes,
    ),
    "over-seconds": Plot(
        "Score over time",
        f"Wall time since the first evaluation, which excludes loading the model. {_BANDS}",
        curves.score_over_seconds,
    ),
    "by-node": Plot(
        "Score of each node over rounds", "The first seed of each method.",
        node_plots.score_by_node_and_round,
    ),
    "consensus": Plot(
        "Consensus distance and interference",
        "The consensus distance is the root mean square of the nodes' distances to their mean "
        "model, before the last mixing step. Interference is the Frobenius norm of the difference "
        "between the mean of the products B A and a node's product after mixing; 0 is exact. "
        f"{_BANDS}",
        curves.consensus_and_interference,
    ),
    "deviation": Plot("Standard deviation over the nodes", _BANDS, curves.deviation_over_nodes),
    "split": Plot(
        "Training rows of each node",
        "The rows of each class, in the first run. They include the node's own test rows.",
        rows_by_node,
    ),
    "graph": Plot(
        "Score of each node in the graph",
        "The last evaluation of the first seed of each method.",
        node_plots.graph_by_score,
    ),
    "time": Plot(
        "Time per node and round",
        "\"relay, waiting\" is the wall time of a round times the number of processes that worked "
        "in it, minus the other parts.",
        time_split,
    ),
}  # fmt: skip


def draw(name: str, folders: Sequence[RunFolder]) -> Figure | None:
    """Draw one of ``PLOTS`` in the report's style; None if the runs have no data for it."""
    with mpl.rc_context(RC):
        figure = PLOTS[name].draw(folders)
        if figure and (engine := figure.get_layout_engine()):
            engine.execute(figure)
            figure.set_layout_engine("none")  # the layout is not computed again for each file
        return figure
