"""The command ``flwr-decaf``. Heavy imports are inside the commands, so that --help is fast."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flwr_decaf import __version__
from flwr_decaf.cli.console import console, errors_in_one_line
from flwr_decaf.cli.drawing import data, topology
from flwr_decaf.cli.pushing import push
from flwr_decaf.cli.viewing import list_names, print_runs, report, show
from flwr_decaf.extras import require_app

os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # otherwise there are two dozen

app = typer.Typer(no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"flwr-decaf {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Peer-to-peer LoRA fine-tuning on Flower."""
    with errors_in_one_line():
        require_app()


class Kind(StrEnum):
    """Flower's engines."""

    simulation = "simulation"
    deployment = "deployment"


@app.command()
def run(  # noqa: PLR0913 - one argument per option
    conf: Annotated[
        Path,
        typer.Argument(help="TOML file with settings, or the name of one in conf/: quickstart."),
    ],
    nodes: Annotated[int, typer.Option(help="Number of virtual clients.", min=1)] = 10,
    app_dir: Annotated[
        Path | None,
        typer.Option(
            "--app", help="Folder of a Flower app; by default the current one or flwr-decaf's own."
        ),
    ] = None,
    cpus: Annotated[int, typer.Option(help="CPU cores per client.", min=1)] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs per client: 1/k or a whole number.")] = 0.0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting: lora.rank=4.")
    ] = None,
    engine: Annotated[
        Kind, typer.Option(help="Run clients as Ray actors, or as SuperNodes on this machine.")
    ] = Kind.simulation,
    node_data: Annotated[
        str, typer.Option(help="Files of the nodes' own rows, {} is the position: 'node-{}.csv'.")
    ] = "",
    keys: Annotated[
        Path | None,
        typer.Option(
            help="Folder made by 'flwr-decaf keys', for posts.encryption; by default temporary "
            "keys, with which a run cannot be resumed."
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option(help="Show Flower's log instead of the progress.")
    ] = False,
) -> None:
    """Run an experiment with 'flwr run', and exit with status 1 if it fails.

    Settings and hardware are checked before anything starts, model and data while the engine
    starts. Flower's log goes to log.txt in the run folder.
    """
    from flwr_decaf.cli.engine import deployment, simulation
    from flwr_decaf.cli.machine import node_data_pattern
    from flwr_decaf.cli.packaged import app_folder, settings_file
    from flwr_decaf.cli.simulate import simulate

    shown = None if verbose else console
    with errors_in_one_line():
        own = node_data_pattern(node_data, nodes)
        deploys = engine == Kind.deployment
        chosen = deployment(nodes, own) if deploys else simulation(nodes, cpus, gpus, own)
        chosen = chosen._replace(keys=keys)
        with app_folder(app_dir) as folder:
            file = settings_file(conf)
            folders = simulate(file, settings or [], nodes, chosen, folder, shown)
    path = print_runs(folders)
    adapter = next(iter(sorted((folders[0].path / "adapters").glob("*"))), None)
    load = f"; PeftModel.from_pretrained(base, '{adapter}') loads an adapter" if adapter else ""
    console.print(f"Next: 'flwr-decaf report {path}' draws it{load}", soft_wrap=True)


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="Folder of the project, e.g. my-study.")],
) -> None:
    """Create a Flower app: settings, a client to edit, and a README."""
    from flwr_decaf.cli.project import write_project

    with errors_in_one_line():
        written = write_project(folder)
    for file in written:
        console.print(str(file), soft_wrap=True)
    console.print(f"Next: cd {folder}, and read README.md", soft_wrap=True)


@app.command()
def keys(
    folder: Annotated[Path, typer.Argument(help="New or empty folder for the keys.")],
    nodes: Annotated[int, typer.Option(help="Number of nodes.", min=1)] = 10,
) -> None:
    """Make a key for each node, and a file of allowed signers, for posts.encryption."""
    from flwr_decaf.cli.keys import write_keys

    with errors_in_one_line():
        write_keys(folder, nodes)
    console.print(
        f"Wrote keys of {nodes} nodes and allowed_signers to {folder}. Next: give each node its "
        "own private key and allowed_signers, and name them in its node-config as posts-key and "
        "posts-allowed-signers",
        soft_wrap=True,
    )


for command in (show, report, push, topology, data):
    app.command()(command)
app.command("list")(list_names)
