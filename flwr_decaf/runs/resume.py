"""Which runs of a folder are done, which go on from a checkpoint, and whether they may."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flwr_decaf.config import Config, flatten
from flwr_decaf.config.comparison import folder_of
from flwr_decaf.messages.checkpoint import Checkpoint, load_checkpoint
from flwr_decaf.runs.folder import RunFolder, holds_runs
from flwr_decaf.runs.lock import check_not_running

# Where a run lies, and that it is resumed, do not decide what comes out.
_FREE = {"output-dir", "run-name", "resume-from", "checkpoint-every", "tensorboard"}


def check_resumable(root: Path, runs: Mapping[str, Config]) -> None:
    """Refuse a folder whose runs are running, or were begun with other settings.

    Parameters
    ----------
    root : Path
        ``resume-from``: the folder of a run, or of a comparison.
    runs : mapping of str to Config
        What the settings ask for now.

    Raises
    ------
    ValueError
        If none of the runs was begun there, one is running, or one was begun with another
        setting, which is named.
    """
    folders = {name: RunFolder(folder_of(root, name, len(runs))) for name in runs}
    begun = {name: folder.run for name, folder in folders.items()}
    if not holds_runs(root):
        what = "holds none, or one that ended before its first round" if root.exists() else "is not"
        raise ValueError(
            f"resume-from must be the folder of a run that was begun; {root} {what}; name another, "
            "or start without resume-from"
        )
    if not any(begun.values()):
        raise ValueError(
            f"resume-from must be the folder of a run that was begun with these settings; {root} "
            f"holds none of {', '.join(runs)}; see output-dir"
        )
    for folder in folders.values():
        check_not_running(folder)
    defaults = flatten(Config())
    for name, run in begun.items():
        now, then = flatten(runs[name]), {**defaults, **run.get("settings", flatten(runs[name]))}
        changed = [key for key in now if key not in _FREE and now[key] != then[key]]
        if changed:
            told = ", ".join(f"{key} was {then[key]!r} and is {now[key]!r}" for key in changed)
            raise ValueError(
                f"settings must be as when {name} was begun; {told}; set them back, or start a "
                "new run without resume-from"
            )


def check_nodes(folder: RunFolder, n: int) -> None:
    """Refuse to go on with another number of nodes than a run was begun with."""
    then = folder.run.get("network", {}).get("nodes", n)
    if then != n:
        raise ValueError(
            f"num-supernodes must be as when the run was begun; it was {then} and is {n}; give "
            f"--nodes {then}"
        )


def go_on(folder: RunFolder, n: int) -> Checkpoint | None:
    """Bring a folder back to its last whole checkpoint.

    Parameters
    ----------
    folder : RunFolder
        Of a run that was begun and is not finished.
    n : int
        Nodes that are there now.

    Returns
    -------
    Checkpoint or None
        None if the run has to start from the beginning.

    Raises
    ------
    ValueError
        If the run was begun on another number of nodes.
    """
    check_nodes(folder, n)
    checkpoint = load_checkpoint(folder.checkpoints)
    folder.rewind(checkpoint.server_round if checkpoint else 0)
    return checkpoint
