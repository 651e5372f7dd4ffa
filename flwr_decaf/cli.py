"""The command ``flwr-decaf``. Heavy imports stay inside the commands, so that --help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

if TYPE_CHECKING:
    from flwr_decaf.run_folder import RunFolder

app = typer.Typer(help="Peer-to-peer LoRA fine-tuning on Flower.", no_args_is_help=True)
_console = Console()
_errors = Console(stderr=True)

RunFolders = Annotated[list[Path], typer.Argument(help="Run folders, or folders of run folders.")]


@app.command()
def run(  # noqa: PLR0913 - an argument an option
    conf: Annotated[Path, typer.Argument(help="TOML file with settings (see conf/).")],
    nodes: Annotated[int, typer.Option(help="Number of virtual clients.", min=1)] = 10,
    app_dir: Annotated[Path, typer.Option("--app", help="Folder of the Flower app.")] = Path("."),
    cpus: Annotated[int, typer.Option(help="CPU cores of one client.", min=1)] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs of one client: 1/k or a whole number.")] = 0.0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override one setting: lora.rank=4")
    ] = None,
    verbose: Annotated[bool, typer.Option(help="Show Flower's log instead of progress.")] = False,
) -> None:
    """Run a simulation with 'flwr run', and exit with 1 if it fails.

    The settings are checked before anything starts. Flower's log goes to log.txt in the run folder.
    """
    from flwr_decaf.simulate import simulate

    federation: dict[str, object] = {"num-supernodes": nodes, "client-resources-num-cpus": cpus}
    if gpus:
        federation["client-resources-num-gpus"] = gpus
    console = None if verbose else _console
    try:
        folders = simulate(conf, settings or [], federation, app_dir.resolve(), console)
    except ValueError as error:
        _fail(str(error), code=2)
    except RuntimeError as error:
        _fail(str(error))
    _print_runs(folders)


@app.command()
def show(folders: RunFolders) -> None:
    """Print the table of one run folder, or the comparison of several."""
    from flwr_decaf.report.runs import find_runs

    try:
        _print_runs(find_runs(folders))
    except ValueError as error:
        _fail(str(error), code=2)


def _print_runs(folders: list[RunFolder]) -> None:
    from flwr_decaf.report.table import comparison_table, run_table

    _console.print(run_table(folders[0]) if len(folders) == 1 else comparison_table(folders))
    path = folders[0].path if len(folders) == 1 else folders[0].path.parent
    _console.print(f"Run folder: {path}", highlight=False, soft_wrap=True)


def _fail(message: str, code: int = 1) -> NoReturn:
    _errors.print(f"[bold red]Error:[/] {message}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)
