"""The command ``flwr-decaf``. Heavy imports are inside the commands, so that --help is fast."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from flwr_decaf import __version__
from flwr_decaf.extras import require_app

if TYPE_CHECKING:
    from flwr_decaf.config import Value
    from flwr_decaf.runs.folder import RunFolder

os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # else two dozen bars come first

app = typer.Typer(no_args_is_help=True)
# Paths, settings and error messages may contain brackets, so nothing is parsed as markup.
_console = Console(markup=False, highlight=False)
_errors = Console(markup=False, highlight=False, stderr=True)

RunFolders = Annotated[list[Path], typer.Argument(help="Run folders, or folders of run folders.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        _console.print(f"flwr-decaf {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Peer-to-peer LoRA fine-tuning on Flower."""
    try:
        require_app()
    except RuntimeError as error:
        _fail(str(error))


class Kind(StrEnum):
    """Flower's engines."""

    simulation = "simulation"
    deployment = "deployment"


@app.command()
def run(  # noqa: PLR0913 - one argument per option
    conf: Annotated[
        Path, typer.Argument(help="TOML file with settings, or the name of one of conf/: ring.")
    ],
    nodes: Annotated[int, typer.Option(help="Number of virtual clients.", min=1)] = 10,
    app_dir: Annotated[
        Path | None,
        typer.Option(
            "--app", help="Folder of a Flower app; by default the current one, or flwr-decaf's own."
        ),
    ] = None,
    cpus: Annotated[int, typer.Option(help="CPU cores per client.", min=1)] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs per client: 1/k or a whole number.")] = 0.0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting, e.g. lora.rank=4.")
    ] = None,
    engine: Annotated[
        Kind, typer.Option(help="Run clients as Ray actors, or as SuperNodes on this machine.")
    ] = Kind.simulation,
    node_data: Annotated[
        str, typer.Option(help="Each node's own rows, with {} for its position: 'node-{}.csv'.")
    ] = "",
    verbose: Annotated[
        bool, typer.Option(help="Show Flower's log instead of the progress.")
    ] = False,
) -> None:
    """Run an experiment with 'flwr run', and exit with 1 if it fails.

    Settings and hardware are checked before anything starts, model and data while the engine
    does. Flower's log goes to log.txt in the run folder.
    """
    from flwr_decaf.cli.engine import deployment, simulation
    from flwr_decaf.cli.machine import node_data_pattern
    from flwr_decaf.cli.packaged import app_folder, settings_file
    from flwr_decaf.cli.simulate import simulate

    console = None if verbose else _console
    try:
        own = node_data_pattern(node_data, nodes)
        deploys = engine == Kind.deployment
        chosen = deployment(nodes, own) if deploys else simulation(nodes, cpus, gpus, own)
        with app_folder(app_dir) as folder:
            file = settings_file(conf)
            folders = simulate(file, settings or [], nodes, chosen, folder, console)
    except ValueError as error:
        _fail(str(error), code=2)
    except RuntimeError as error:
        _fail(str(error))
    except KeyboardInterrupt as error:
        _fail(str(error) or "interrupted", code=130)
    _print_runs(folders)


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="Folder of the project, e.g. my-study.")],
) -> None:
    """Write a Flower app to start from: settings, a client to edit, and a README."""
    from flwr_decaf.cli.project import write_project

    try:
        written = write_project(folder)
    except ValueError as error:
        _fail(str(error), code=2)
    for file in written:
        _console.print(str(file), soft_wrap=True)
    _console.print(f"Next: cd {folder}, and read README.md", soft_wrap=True)


@app.command()
def show(folders: RunFolders) -> None:
    """Print a table for each folder: of the nodes of a run, or of the runs of a comparison."""
    from flwr_decaf.report.runs import find_runs

    for folder in folders:
        try:
            _print_runs(find_runs([folder]))
        except ValueError as error:
            if len(folders) == 1:
                _fail(str(error), code=2)
            _print_error("Left out:", str(error), style="yellow")


@app.command()
def report(
    folders: RunFolders,
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
) -> None:
    """Write an HTML page with tables and plots.

    By default it goes to report/ in the given folder, or in the current one if several are given.
    """
    from flwr_decaf.report.page import write_report
    from flwr_decaf.report.runs import find_runs

    try:
        page = write_report(
            find_runs(folders), output or (folders[0] if len(folders) == 1 else Path()) / "report"
        )
    except ValueError as error:
        _fail(str(error), code=2)
    _console.print(f"Report: {page}", soft_wrap=True)


@app.command()
def topology(  # noqa: PLR0913 - one argument per option
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Families, or JSON files with graphs; not for base graphs."),
    ] = None,
    nodes: Annotated[int, typer.Option(help="Number of nodes.", min=1)] = 10,
    weights: Annotated[str, typer.Option(help="Rule for the mixing weights.")] = "metropolis",
    seed: Annotated[int, typer.Option(help="Seed of random graphs.")] = 0,
    edge_probability: Annotated[
        float, typer.Option(help="Probability of an edge in random graphs.")
    ] = 0.5,
    degree: Annotated[
        int, typer.Option(help="Degree of random regular graphs and small worlds.")
    ] = 4,
    dynamic: Annotated[str, typer.Option(help="How the graph of each round is drawn.")] = "static",
    activation_probability: Annotated[
        float, typer.Option(help="Probability of an edge in edge-activation.")
    ] = 0.5,
    peers: Annotated[
        int, typer.Option(help="Maximum number of neighbours per round in base graphs.")
    ] = 1,
    mixing_steps: Annotated[str, typer.Option(help="Number of mixes in a round, or period.")] = "1",
    adapter_mb: Annotated[float, typer.Option(help="Size of one post in MB.", min=0)] = 1.0,
    output: Annotated[Path, typer.Option(help="File for the drawing.")] = Path("topology.png"),
) -> None:
    """Draw graphs, and tabulate how fast they reach consensus and their traffic."""
    from flwr_decaf.cli.machine import check_matrix_fits
    from flwr_decaf.cli.networks import (
        check_options_apply,
        networks_by_name,
        steps_lines,
        time_varying_lines,
    )
    from flwr_decaf.report.topology import save_topologies, topology_table
    from flwr_decaf.topology.mixing_matrix import lambda2

    settings: dict[str, Value] = {
        "topology.weights": weights,
        "topology.seed": seed,
        "topology.edge-probability": edge_probability,
        "topology.degree": degree,
        "topology.dynamic": dynamic,
        "topology.activation-probability": activation_probability,
        "topology.peers": peers,
        "mixing-steps": mixing_steps,
    }
    given = {name for name in context.params if _is_given(context, name)}
    try:
        check_options_apply(names or [], dynamic, given)
        check_matrix_fits(nodes)
        # Shown only on a terminal: eigenvalues of thousands of nodes take a while.
        with _errors.status(f"Computing the eigenvalues of {nodes} x {nodes} matrices"):
            networks = networks_by_name(names or [], settings, nodes)
            bases = {name: network.base for name, network in networks.items()}
            rates = {name: lambda2(w) for name, w in bases.items()}
            lines = time_varying_lines(networks, dynamic)
            exchanges = steps_lines(networks, mixing_steps)
        with _errors.status("Drawing"):
            save_topologies(bases, rates, output)
    except ValueError as error:
        _fail(str(error), code=2)
    _console.print(topology_table(bases, rates, adapter_mb * 1e6, time_varying=bool(lines)))
    for line in lines + exchanges:
        _console.print(line, soft_wrap=True)
    _console.print(f"Picture: {output}", soft_wrap=True)


@app.command("list")
def list_names(
    kind: Annotated[
        str | None, typer.Argument(help="strategies, topologies, settings, ...; by default all.")
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """List the settings, and the names that they accept, with their meanings."""
    from flwr_decaf.cli import listing

    kinds = [*listing.NAMED, listing.SETTINGS]
    if kind is None:
        _console.print(listing.names())
    elif kind not in kinds:
        _fail(f"KIND must be one of {', '.join(kinds)}; got {kind!r}; choose one of these", code=2)
    elif as_markdown:
        typer.echo(listing.markdown(kind), nl=False)
    else:
        _console.print(listing.meanings(kind, _console.width))


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _print_runs(folders: list[RunFolder]) -> None:
    from flwr_decaf.report.table import comparison_table, run_table
    from flwr_decaf.report.timing import describe_frozen_layers, describe_shares
    from flwr_decaf.runs.lock import status_of

    _console.print(run_table(folders[0]) if len(folders) == 1 else comparison_table(folders))
    for describe in (describe_shares, describe_frozen_layers) if len(folders) == 1 else ():
        if line := describe(folders[0]):
            _console.print(line, soft_wrap=True)
    path = folders[0].path if len(folders) == 1 else folders[0].path.parent
    unfinished = sorted({status_of(folder) for folder in folders} - {"finished"})
    status = f" ({', '.join(unfinished)})" if unfinished else ""
    _console.print(f"Run folder: {path}{status}", soft_wrap=True)


def _fail(message: str, code: int = 1) -> NoReturn:
    _print_error("Error:", message, style="bold red")
    raise typer.Exit(code)


def _print_error(heading: str, message: str, style: str) -> None:
    _errors.print(Text.assemble((heading, style), f" {message}"), soft_wrap=True)
