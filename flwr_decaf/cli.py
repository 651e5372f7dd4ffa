"""The command ``flwr-decaf``. Heavy imports stay inside the commands, so that --help is quick."""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from flwr_decaf.run_folder import RunFolder

app = typer.Typer(help="Peer-to-peer LoRA fine-tuning on Flower.", no_args_is_help=True)
_console = Console()
_errors = Console(stderr=True)

RunFolders = Annotated[list[Path], typer.Argument(help="Run folders.")]


@app.command()
def run(
    conf: Annotated[Path, typer.Argument(help="TOML file with settings (see conf/).")],
    nodes: Annotated[int, typer.Option(help="Number of virtual clients.", min=1)] = 10,
    app_dir: Annotated[Path, typer.Option("--app", help="Folder of the Flower app.")] = Path("."),
    cpus: Annotated[int, typer.Option(help="CPU cores of one client.", min=1)] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs of one client: 1/k or a whole number.")] = 0.0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override one setting: lora.rank=4")
    ] = None,
) -> None:
    """Run a simulation with 'flwr run', and exit with 1 if it fails.

    The settings are checked before anything starts.
    """
    from flwr_decaf.engine import flwr_run
    from flwr_decaf.run_folder import RunFolder
    from flwr_decaf.run_settings import checked_settings, to_toml

    try:
        values = checked_settings(conf, settings or [], nodes)
    except ValueError as error:
        _fail(str(error), code=2)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    values["run-name"] = values["run-name"] or f"{stamp}-{conf.stem}"
    folder = RunFolder(Path(str(values["output-dir"])) / str(values["run-name"]))
    federation: dict[str, object] = {"num-supernodes": nodes, "client-resources-num-cpus": cpus}
    if gpus:
        federation["client-resources-num-gpus"] = gpus
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "run.toml"
        file.write_text(to_toml(values), encoding="utf8")
        try:
            flwr_run(app_dir.resolve(), file, federation)
        except RuntimeError as error:
            _fail(str(error))
    outcome: dict[str, Any] = folder.run
    if outcome.get("status") != "finished":
        _fail(f"the run failed: {outcome.get('error', 'it never started; see the log above')}")
    _print_run(folder)


@app.command()
def show(folders: RunFolders) -> None:
    """Print the table of one or several run folders."""
    from flwr_decaf.run_folder import RunFolder

    for path in folders:
        try:
            _print_run(RunFolder(path))
        except (ValueError, KeyError) as error:
            _fail(f"FOLDERS must be run folders; {path} cannot be read ({error})", code=2)


def _print_run(folder: RunFolder) -> None:
    from flwr_decaf.report.table import run_table

    _console.print(run_table(folder))
    _console.print(f"Run folder: {folder.path}", highlight=False, soft_wrap=True)


def _fail(message: str, code: int = 1) -> None:
    _errors.print(f"[bold red]Error:[/] {message}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)
