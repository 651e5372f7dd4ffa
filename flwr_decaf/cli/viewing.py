"""The commands that show runs as tables and pages, and settings with their values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flwr_decaf.cli.console import console, errors_in_one_line, fail, print_error

if TYPE_CHECKING:
    from flwr_decaf.runs.folder import RunFolder

RunFolders = Annotated[list[Path], typer.Argument(help="Run folders, or folders of run folders.")]


def show(folders: RunFolders) -> None:
    """Print a table for each folder: of the nodes of a run, or of the runs of a comparison."""
    from flwr_decaf.report.runs import find_runs

    with errors_in_one_line():
        for folder in folders:
            try:
                print_runs(find_runs([folder]))
            except ValueError as error:
                if len(folders) == 1:
                    raise
                print_error("Left out:", str(error), style="yellow")


def report(
    folders: RunFolders,
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
) -> None:
    """Write an HTML page with tables and plots.

    By default, it goes to report/ in the given folder, or in the current one if several are given.
    """
    from flwr_decaf.report.page import write_report
    from flwr_decaf.report.runs import find_runs

    with errors_in_one_line():
        page = write_report(
            find_runs(folders), output or (folders[0] if len(folders) == 1 else Path()) / "report"
        )
    console.print(f"Report: {page}", soft_wrap=True)


def list_names(
    kind: Annotated[
        str | None, typer.Argument(help="strategies, topologies, settings, ...; by default all.")
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """List the settings and the names that they accept, with their meanings."""
    from flwr_decaf.cli import listing

    kinds = [*listing.NAMED, listing.SETTINGS]
    if kind is None:
        console.print(listing.names())
    elif kind not in kinds:
        fail(f"KIND must be one of {', '.join(kinds)}; got {kind!r}; choose one of these", code=2)
    elif as_markdown:
        typer.echo(listing.markdown(kind), nl=False)
    else:
        console.print(listing.meanings(kind, console.width))


def print_runs(folders: list[RunFolder]) -> Path:
    """Print the table of a run, or of a comparison of runs, and the path of its folder; return it.

    Returns
    -------
    Path
        The run folder, or the folder of all run folders.
    """
    from flwr_decaf.report.table import comparison_table, run_table
    from flwr_decaf.report.timing import describe_frozen_layers, describe_shares
    from flwr_decaf.runs.lock import status_of

    console.print(run_table(folders[0]) if len(folders) == 1 else comparison_table(folders))
    for describe in (describe_shares, describe_frozen_layers) if len(folders) == 1 else ():
        if line := describe(folders[0]):
            console.print(line, soft_wrap=True, markup=False)
    path = folders[0].path if len(folders) == 1 else folders[0].path.parent
    unfinished = sorted({status_of(folder) for folder in folders} - {"finished"})
    status = f" ({', '.join(unfinished)})" if unfinished else ""
    console.print(f"Run folder: {path}{status}", soft_wrap=True)
    return path
