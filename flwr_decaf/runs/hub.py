"""Upload of the adapters of a run, with their model cards, to the Hugging Face Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from flwr_decaf.config import Config, parse_config
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.lock import status_of
from flwr_decaf.runs.model_card import (
    front_matter,
    last_evaluations,
    model_card,
    scores_in_words,
)
from flwr_decaf.text import first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Nothing else of a run folder is uploaded.
_FILES = ("adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors")


def chosen_models(folder: RunFolder, nodes: Sequence[int] = ()) -> list[Path]:
    """Select the saved models of a run.

    Parameters
    ----------
    folder : RunFolder
        The folder of a finished run.
    nodes : sequence of int
        Positions of nodes; by default all. FedAvg and ``centralized`` have one model, ``global``.

    Raises
    ------
    ValueError
        If the run is not finished, or has no model of one of the nodes.
    """
    if (status := status_of(folder)) != "finished":
        raise ValueError(
            f"RUN must be the folder of a finished run; {folder.path} is {status}; resume it first"
        )
    saved = sorted((folder.path / "adapters").iterdir(), key=lambda path: (len(path.name), path))
    names = [path.name for path in saved]
    for node in nodes:
        if f"node-{node}" not in names:
            raise ValueError(
                f"--nodes must be nodes with a saved model; got {node}, but {folder.path} has "
                f"{', '.join(names)}; choose from these"
            )
    wanted = {f"node-{node}" for node in nodes} or names
    return [path for path in saved if path.name in wanted]


def stage(folder: RunFolder, models: Sequence[Path], target: Path, base: str = "") -> list[Path]:
    """Copy what is to be uploaded to an empty folder.

    A single model is placed at the top, and several in a folder each, with a table of them.

    Parameters
    ----------
    folder : RunFolder
        The folder of the run.
    models : sequence of Path
        The models, from ``chosen_models``.
    target : Path
        An empty folder.
    base : str
        Hub id of the base; by default ``model.name`` of the settings.

    Returns
    -------
    list of Path
        The files, relative to ``target``.

    Raises
    ------
    ValueError
        If the settings name the base by a path of this machine, and ``base`` is empty.
    """
    config = parse_config(folder.run["settings"])
    config = replace(config, model=replace(config.model, name=base or _portable_base(config)))
    for model in models:
        place = target if len(models) == 1 else target / model.name
        place.mkdir(exist_ok=True)
        for name in _FILES:
            if (model / name).exists():
                shutil.copy(model / name, place / name)
        _write_base(place / "adapter_config.json", config.model.name)
        (place / "README.md").write_text(_card(folder, config, model.name), encoding="utf8")
    if len(models) > 1:
        names = [model.name for model in models]
        (target / "README.md").write_text(_table(folder, config, names), encoding="utf8")
    return sorted(path.relative_to(target) for path in target.rglob("*") if path.is_file())


def upload(source: Path, repo: str, private: bool, api: HfApi | None = None) -> str:
    """Upload a folder to a model repository, which is created if there is none.

    The token is that of huggingface_hub: ``HF_TOKEN``, or what ``hf auth login`` has stored.

    Parameters
    ----------
    source : Path
        The folder.
    repo : str
        ``NAME/REPOSITORY``.
    private : bool
        Whether a new repository is private.
    api : HfApi, optional
        Client of the Hub; by default that of ``HF_ENDPOINT``.

    Returns
    -------
    str
        URL of the repository.

    Raises
    ------
    RuntimeError
        If the Hub refuses the upload or cannot be reached.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    api = api or HfApi(library_name="flwr-decaf", library_version=version("flwr-decaf"))
    try:
        created = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=source, commit_message="Upload by flwr-decaf push"
        )
    except (HTTPError, LocalTokenNotFoundError) as error:
        raise RuntimeError(
            f"--to must be a repository to which you can write; got {repo}, but the upload failed "
            f"({first_line(error)}); check the name and the network, or log in by 'hf auth login'"
        ) from error
    return str(created)


def _portable_base(config: Config) -> str:
    name = config.model.name
    if config.model.task != "cnn" and (Path(name).exists() or name.startswith(("/", ".", "~"))):
        raise ValueError(
            "--base must name the base on a hub if model.name is a path of this machine; got none, "
            f"and model.name is {name!r}; add e.g. --base org/model"
        )
    return name


def _write_base(file: Path, name: str) -> None:
    if file.exists():
        described = json.loads(file.read_text(encoding="utf8"))
        described["base_model_name_or_path"] = name
        file.write_text(json.dumps(described, indent=2), encoding="utf8")


def _card(folder: RunFolder, config: Config, name: str) -> str:
    run = folder.run
    evaluation = last_evaluations(folder.metrics).get(name, {})
    return model_card(name, config, run["network"]["nodes"], evaluation, "own-rows" in run)


def _table(folder: RunFolder, config: Config, names: Sequence[str]) -> str:
    """Write the card of a repository with several models."""
    load = "PeftModel.from_pretrained(base, REPOSITORY, subfolder=...)"
    loads = f"Each folder is loaded by `{load}`.\n\n" if config.model.task != "cnn" else ""
    last = last_evaluations(folder.metrics)
    scores = {name: scores_in_words(name, last.get(name, {})) for name in names}
    columns = list(dict.fromkeys(what for words in scores.values() for what in words))
    rows = [
        ["model", *columns],
        ["---"] * (1 + len(columns)),
        *(
            [f"[{name}]({name}/README.md)", *(words.get(what, "") for what in columns)]
            for name, words in scores.items()
        ),
    ]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    title = f"Models of {len(names)} nodes, trained with {config.strategy}"
    return f"---\n{front_matter(config)}---\n\n# {title}\n\n{loads}{table}"
