"""Render formulas as SVG outlines by matplotlib: no script, no fonts, in the text's colour."""

from html import escape

from docutils.nodes import Element, SkipNode
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

_SIZE = 100  # units per em
_FONT = FontProperties(math_fontfamily="stix", size=_SIZE)
_COMMANDS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}


def drawn(tex: str) -> str:
    """Draw a formula, aligned with the baseline of the text.

    Parameters
    ----------
    tex : str
        A formula in the subset of TeX that matplotlib's mathtext supports.

    Returns
    -------
    str
        An ``<svg>`` element whose sizes are relative to the font size.

    Raises
    ------
    ValueError
        If mathtext does not support a command.
    """
    path = TextPath((0, 0), f"${' '.join(tex.split())}$", prop=_FONT)
    box = path.get_extents()
    steps = [
        _COMMANDS.get(code, "Z") + ("" if code == Path.CLOSEPOLY else _numbers(points))
        for points, code in path.iter_segments(curves=True, simplify=False)
    ]
    return (
        f'<svg class="formula" role="img" aria-label="{escape(tex)}" '
        f'viewBox="{box.x0:.0f} {-box.y1:.0f} {box.width:.0f} {box.height:.0f}" '
        f'style="width: {box.width / _SIZE:.2f}em; height: {box.height / _SIZE:.2f}em; '
        f'vertical-align: {box.y0 / _SIZE:.2f}em">'
        f'<path d="{"".join(steps)}" fill="currentColor"/></svg>'
    )


def _numbers(points: list[float]) -> str:
    # SVG's y axis points down.
    return " ".join(f"{x:.0f}" for x in points * ([1, -1] * (len(points) // 2)))


def inline(writer: HTML5Translator, node: Element) -> None:
    """Write a formula within a line."""
    writer.body.append(drawn(node.astext()))
    raise SkipNode


def block(writer: HTML5Translator, node: Element) -> None:
    """Write a formula on a line of its own."""
    writer.body.append(f'<div class="formula">{drawn(node.astext())}</div>')
    raise SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("formulas", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
