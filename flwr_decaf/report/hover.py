"""Values that a browser shows when the pointer rests on a point of a line."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

_SVG = "{http://www.w3.org/2000/svg}"


def name_lines(figure: Figure) -> dict[str, Line2D]:
    """Give each line with markers an id in the SVG file, and return the lines by id."""
    named = {}
    for panel, axes in enumerate(figure.axes):
        for place, line in enumerate(axes.get_lines()):
            if line.get_marker() != "None":
                line.set_gid(f"line-{panel}-{place}")
                named[f"line-{panel}-{place}"] = line
    return named


def with_values(svg: bytes, lines: Mapping[str, Line2D]) -> bytes:
    """Add a title with its values to each point of some lines.

    Parameters
    ----------
    svg : bytes
        A figure as Matplotlib writes it, with a ``use`` element for each finite point.
    lines : mapping of str to Line2D
        The result of ``name_lines`` before the figure was written.

    Returns
    -------
    bytes
        The SVG with ``title`` elements, which browsers show as tooltips.
    """
    ElementTree.register_namespace("", _SVG.strip("{}"))
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(svg)
    for group in root.iter(f"{_SVG}g"):
        if line := lines.get(group.get("id", "")):
            markers = list(group.iter(f"{_SVG}use"))
            for marker, text in zip(markers, _texts(line), strict=True):
                ElementTree.SubElement(marker, f"{_SVG}title").text = text
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _texts(line: Line2D) -> list[str]:
    points = np.ma.filled(line.get_xydata(), np.nan)
    drawn = points[np.isfinite(points).all(axis=1)]
    axes = line.axes
    across = axes.get_xlabel() if axes else ""
    return [f"{line.get_label()}: {y:.3g} at {across} {x:.4g}" for x, y in drawn.tolist()]
