from __future__ import annotations

import io
import re

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from flwr_decaf.report.hover import name_lines, with_values


def titles(figure):
    lines, buffer = name_lines(figure), io.BytesIO()
    FigureCanvasSVG(figure).print_svg(buffer)
    svg = with_values(buffer.getvalue(), lines).decode()
    return svg, re.findall("<title>(.*?)</title>", svg)


def test_each_point_says_its_line_and_its_values():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.plot([0, 15], [0.1, 0.71], marker="o", label="decaf")
    left.plot([0, 15], [0.1, np.nan], marker="o", label="a & b")
    right.plot([0.5, 1e4], [1.0, 2.0], marker="s", label="dlora")
    left.set_xlabel("round")
    right.set_xlabel("seconds")
    svg, found = titles(figure)
    assert found == [
        "decaf: 0.1 at round 0",
        "decaf: 0.71 at round 15",
        "a &amp; b: 0.1 at round 0",
        "dlora: 1 at seconds 0.5",
        "dlora: 2 at seconds 1e+04",
    ]
    assert svg.count("<svg") == 1


def test_lines_without_markers_have_no_values():
    figure = Figure()
    figure.subplots().plot([0, 1], [1.0, 10.0], label="no markers")
    assert titles(figure)[1] == []
