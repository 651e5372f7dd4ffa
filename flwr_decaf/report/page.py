"""A self-contained HTML page, whose plots and tables are also written as separate files."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import jinja2
import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from flwr_decaf.atomic import write_atomically
from flwr_decaf.report.hover import name_lines, with_values
from flwr_decaf.report.paired import paired_differences
from flwr_decaf.report.plots import PLOTS, draw
from flwr_decaf.report.runs import labels_of, scored, snapshots
from flwr_decaf.report.settings import commands, main_settings, settings_of
from flwr_decaf.report.style import RC
from flwr_decaf.report.summary import summarize
from flwr_decaf.report.table import comparison_cells, headings, node_table
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.lock import status_of
from flwr_decaf.runs.score import score_of

_DPI = 150


def write_report(folders: Sequence[RunFolder], target: Path) -> Path:
    """Write report.html, summary.csv, summary.md and plots/ for some runs.

    Parameters
    ----------
    folders : sequence of RunFolder
        Finished or unfinished runs; those without an evaluation are left out.
    target : Path
        Folder to write to. It is created if it does not exist, and files of an earlier report are
        overwritten.

    Returns
    -------
    Path
        Path of report.html.

    Raises
    ------
    ValueError
        If no run has been evaluated yet, or if the runs have different scores.
    """
    folders = scored(snapshots(folders))
    summary = summarize(folders)
    plots = {name: figure for name in PLOTS if (figure := draw(name, folders))}
    drawn = {name: _render(figure, "svg") for name, figure in plots.items()}
    html = _html(folders, summary, drawn)
    (target / "plots").mkdir(parents=True, exist_ok=True)
    for name, figure in plots.items():
        (target / "plots" / f"{name}.svg").write_bytes(drawn[name])
        (target / "plots" / f"{name}.png").write_bytes(_render(figure, "png"))
    write_atomically(target / "summary.csv", summary.to_csv())
    write_atomically(target / "summary.md", markdown_table(summary))
    page = target / "report.html"
    write_atomically(page, html)
    return page


def markdown_table(summary: pd.DataFrame) -> str:
    """Format a summary (see ``summary.summarize``) as a Markdown table."""
    columns = headings(summary)
    lines = [["method", *columns.values()], ["---", *["---:"] * len(columns)]]
    lines += [[str(label), *comparison_cells(row, columns)] for label, row in summary.iterrows()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _html(folders: Sequence[RunFolder], summary: pd.DataFrame, drawn: Mapping[str, bytes]) -> str:
    source = (files(__package__) / "page.html.jinja").read_text(encoding="utf8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    labels = labels_of(folders)
    columns = headings(summary)
    score = score_of([dict.fromkeys(columns)])
    return environment.from_string(source).render(
        headings=columns.values(),
        rows=[(label, comparison_cells(row, columns)) for label, row in summary.iterrows()],
        csv=_base64(summary.to_csv().encode()),
        paired=_paired_cells(folders),
        plots=[(PLOTS[name], _base64(svg)) for name, svg in drawn.items()],
        nodes=[(folder.path.name, node_table(folder)) for folder in folders],
        statuses=[(folder.path, status_of(folder)) for folder in folders],
        main_settings=main_settings(folders),
        settings=settings_of(folders),
        networks={
            label: folder.run.get("network", {})
            for label, folder in zip(labels, folders, strict=True)
        },
        missing=[
            (folder.path.name, line)
            for folder in folders
            for line in folder.metrics
            if line["phase"] == "missing"
        ],
        commands=commands(folders),
        own_rows=any("own-rows" in folder.run for folder in folders),
        own_tests=score is not None and score.is_local,
        environment=folders[0].run.get("environment", {}),
        started=min(str(folder.run["started"]) for folder in folders),
    )


def _paired_cells(folders: Sequence[RunFolder]) -> list[list[str]]:
    """Format ``paired_differences`` as rows: method, reference, seeds, two columns per score."""
    rows = []
    for label, row in paired_differences(folders).iterrows():
        cells = [str(label), str(row["reference"]), str(row["seeds"])]
        for prefix in ("", "worst-"):
            values = [row[prefix + name] for name in ("difference", "low", "high")]
            difference, low, high = (f"{value:+.3f}" for value in values)
            p = row[f"{prefix}p"]
            cells += [f"{difference} [{low}, {high}]", "" if pd.isna(p) else f"{p:.3f}"]
        rows.append(cells)
    return rows


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _render(figure: Figure, kind: str) -> bytes:
    """Write a figure as svg or png, without the additional pass of ``Figure.savefig``."""
    buffer = io.BytesIO()
    with mpl.rc_context(RC):
        if kind == "svg":  # without a date, the same runs produce the same file
            lines, canvas = name_lines(figure), FigureCanvasSVG(figure)
            canvas.print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]
            return with_values(buffer.getvalue(), lines)
        figure.set_dpi(_DPI)
        FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
        return buffer.getvalue()
