"""The command that uploads saved models to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from flwr_decaf.cli.console import console, errors_in_one_line


def push(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    to: Annotated[str, typer.Option(help="Repository on the Hub: NAME/REPOSITORY.")],
    nodes: Annotated[str, typer.Option(help="Nodes whose models are uploaded: '0, 3'.")] = "",
    base: Annotated[
        str, typer.Option(help="Hub id of the base, if the settings name a path.")
    ] = "",
    private: Annotated[bool, typer.Option(help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only list what would be uploaded.")] = False,
) -> None:
    """Upload the nodes' adapters, with their model cards, to the Hugging Face Hub.

    By default, the models of all nodes are uploaded, each to a folder of its own. The model of a
    single node is placed at the top of the repository.
    """
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    from flwr_decaf.report.runs import find_runs
    from flwr_decaf.runs.hub import chosen_models, stage, upload

    with errors_in_one_line(), TemporaryDirectory() as target:
        validate_repo_id(to)
        (folder, *others) = find_runs([run])
        if others:
            raise ValueError(
                f"RUN must be the folder of one run; got {run}, a comparison of "
                f"{1 + len(others)}; choose one, such as {folder.path}"
            )
        models = chosen_models(folder, _positions(nodes))
        files = stage(folder, models, Path(target), base)
        for file in files:
            size = (Path(target) / file).stat().st_size
            console.print(f"{file}  {size:,} bytes", soft_wrap=True)
        if dry_run:
            console.print(f"Nothing was uploaded to {to} (--dry-run)", soft_wrap=True)
        else:
            console.print(f"Uploaded to {upload(Path(target), to, private)}", soft_wrap=True)


def _positions(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(
            f"--nodes must be positions of nodes, separated by commas; got {text!r}; write e.g. "
            "--nodes 0,3"
        )
    return [int(part) for part in parts]
