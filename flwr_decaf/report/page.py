"""A self-contained HTML page; its plots and tables are also written as separate files."""

from __future__ import annotations

import base64
import io
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from flwr_decaf.atomic import write_atomically
from flwr_decaf.config import Config, flatten, parse_config
from flwr_decaf.config.comparison import runs_of
from flwr_decaf.config.files import flat, to_toml
from flwr_decaf.report.plots import PLOTS, draw
from flwr_decaf.report.runs import labels_of, scored
from flwr_decaf.report.summary import summarize
from flwr_decaf.report.table import comparison_cells, headings
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.lock import status_of

_LISTED = ("strategy", "seed")  # settings that become lists where runs differ in them
_OWN = ("run-name", "output-dir", "seeds", "sweep", "resume-from")


def write_report(folders: Sequence[RunFolder], target: Path) -> Path:
    """Write report.html, summary.csv, summary.md and plots/ for some runs.

    Parameters
    ----------
    folders : sequence of RunFolder
        Finished or unfinished runs; those without an evaluation are left out.
    target : Path
        Folder to write to. It is created if it does not exist; files of an earlier report are
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
    folders = scored(folders)
    summary = summarize(folders)
    figures = {name: figure for name in PLOTS if (figure := draw(name, folders))}
    html = _html(folders, summary, figures)
    (target / "plots").mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            (target / "plots" / f"{name}.{kind}").write_bytes(_render(figure, kind))
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


def commands(folders: Sequence[RunFolder]) -> list[tuple[int, str]]:
    """List what reproduces these runs: numbers of nodes, and settings files as TOML text.

    There is one entry if the runs are all combinations of some values, as
    ``comparison.runs_of`` makes them, and otherwise one for each run.
    """
    nodes = [folder.run.get("network", {}).get("nodes", 0) for folder in folders]
    combined = settings_to_reproduce(folders)
    try:
        requested = len(runs_of(parse_config(flat(tomllib.loads(combined)))))
    except ValueError:  # values with commas of their own cannot be swept
        requested = 0
    if requested == len(folders) and len(set(nodes)) == 1:
        return [(nodes[0], combined)]
    return [(n, settings_to_reproduce([one])) for n, one in zip(nodes, folders, strict=True)]


def settings_to_reproduce(folders: Sequence[RunFolder]) -> str:
    """Write a settings file that requests all combinations of these runs' settings.

    It is TOML text without the settings that have their default.
    """
    runs = [folder.run["settings"] for folder in folders]
    values: dict[str, list[Any]] = {
        key: list(dict.fromkeys(run[key] for run in runs)) for key in runs[0] if key not in _OWN
    }
    swept = {k: v for k, v in values.items() if len(v) > 1 and k not in _LISTED}
    defaults = flatten(Config())
    chosen = {k: v[0] for k, v in values.items() if len(v) == 1 and v[0] != defaults.get(k)}
    chosen["strategy"] = ", ".join(values["strategy"])
    if len(values["seed"]) > 1:
        chosen["seeds"] = ", ".join(map(str, values["seed"]))
    if swept:
        terms = (f"{key} = {', '.join(map(str, value))}" for key, value in swept.items())
        chosen["sweep"] = "; ".join(terms)
    return to_toml(dict(sorted(chosen.items(), key=lambda item: (item[0].count("."), item[0]))))


def _html(folders: Sequence[RunFolder], summary: pd.DataFrame, figures: dict[str, Figure]) -> str:
    source = (files(__package__) / "page.html.jinja").read_text(encoding="utf8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        source
    )
    networks = {
        label: folder.run.get("network", {})
        for label, folder in zip(labels_of(folders), folders, strict=True)
    }
    columns = headings(summary)
    return template.render(
        headings=columns.values(),
        rows=[(label, comparison_cells(row, columns)) for label, row in summary.iterrows()],
        plots=[
            (PLOTS[name][0], base64.b64encode(_render(figure, "svg")).decode())
            for name, figure in figures.items()
        ],
        statuses=[(folder.path, status_of(folder)) for folder in folders],
        networks=networks,
        missing=[
            (folder.path.name, line)
            for folder in folders
            for line in folder.metrics
            if line["phase"] == "missing"
        ],
        commands=commands(folders),
        environment=folders[0].run.get("environment", {}),
        started=min(str(folder.run["started"]) for folder in folders),
    )


def _render(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    # Without a date, the same runs produce the same file.
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()
