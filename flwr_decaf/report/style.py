"""Styles of the methods: a method has the same colour in all plots.

The palette is Okabe and Ito's, which colour-blind readers can distinguish. Runs of one strategy
that differ in another setting share its colour and differ in dashes and markers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

SIZE = (9.6, 4.0)  # inches; the width of the page

RC: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 10,
    "svg.fonttype": "none",  # keep text as text: it can be searched, and it scales
    "svg.hashsalt": "flwr-decaf",  # the same runs produce the same file
}

_COLOURS = {
    "decaf": "#0072B2",
    "dlora": "#E69F00",
    "dlora-fa": "#009E73",
    "dec-lora": "#CC79A7",
    "tad-lora": "#56B4E9",
    "relay-sum": "#A6761D",
    "gradient-tracking": "#882255",
    "dimat": "#5D3A9B",
    "fedavg": "#D55E00",
    "centralized": "#000000",
    "local-only": "#8C8C8C",
}
PART_COLOURS = {
    "training": "#0072B2",
    "mixing": "#E69F00",
    "matching": "#CC79A7",
    "evaluation": "#009E73",
    "relay, waiting": "#BBBBBB",
}
_OTHERS = "#7F7F00"
_DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = (
    "-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)),
)  # fmt: skip
_MARKERS = "osv^DPX*"


class Look(NamedTuple):
    """Colour, dashes and marker of a line."""

    colour: str
    dashes: str | tuple[int, tuple[int, ...]]
    marker: str


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """Choose a style for each label; a label begins with the name of its strategy.

    Examples
    --------
    >>> looks(["decaf, rank 1", "decaf, rank 2"])["decaf, rank 2"]
    Look(colour='#0072B2', dashes='--', marker='s')
    """
    used: dict[str, int] = {}
    found: dict[str, Look] = {}
    for label in dict.fromkeys(labels):
        strategy = label.split(",")[0]
        place = used.get(strategy, 0)
        used[strategy] = place + 1
        found[label] = Look(
            _COLOURS.get(strategy, _OTHERS),
            _DASHES[place % len(_DASHES)],
            _MARKERS[place % len(_MARKERS)],
        )
    return found
