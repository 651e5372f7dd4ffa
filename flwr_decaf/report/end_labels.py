"""Names of lines beside their last points, which are easier to match than a legend."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy.optimize import isotonic_regression

_MOST_LINES = 7  # more do not fit beside a panel
_LONGEST = 22  # characters; longer names would take too much of the width
_GAP = 0.07  # height of a name, in heights of the panel


def fit(labels: Mapping[str, Line2D]) -> bool:
    """Whether the names of all lines fit beside a panel."""
    return len(labels) <= _MOST_LINES and max(map(len, labels), default=0) <= _LONGEST


def write_end_labels(axes: Axes, lines: Mapping[str, Line2D]) -> None:
    """Write each line's name in its colour to the right of the panel, at the height of its end.

    Names that would overlap are moved apart. Call this when all lines are drawn and scales are set.
    """
    ends = {label: end for label, line in lines.items() if np.isfinite(end := _end(line))}
    points = np.array([(0.0, end) for end in ends.values()]).reshape(-1, 2)
    axes.get_ylim()  # computes limits that are still pending
    heights = (axes.transData - axes.transAxes).transform(points)[:, 1]
    for label, height in zip(ends, spread(heights, _GAP), strict=True):
        colour = lines[label].get_color()
        axes.text(1.02, height, label, transform=axes.transAxes, va="center", color=colour)


def spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """Move heights apart to a distance of at least ``gap``, by the least sum of squares.

    Parameters
    ----------
    heights : ndarray
        Heights in any order, of shape (m,).
    gap : float
        The least distance between two of them.

    Returns
    -------
    ndarray
        The new heights, in the order of the old ones, of which none overtakes another.

    Examples
    --------
    >>> [round(float(y), 6) for y in spread(np.array([0.5, 0.1, 0.5]), 0.2)]
    [0.4, 0.1, 0.6]
    """
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    moved = np.empty(len(heights))
    if len(heights):
        # With y_i = z_i + gap i, a distance of gap becomes z_i <= z_(i + 1).
        moved[order] = isotonic_regression(heights[order] - steps).x + steps
    return moved


def _end(line: Line2D) -> float:
    """Return the last finite value of a line, or NaN."""
    values = np.asarray(line.get_ydata(), dtype=float)
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if len(finite) else np.nan
