"""Resuming runs: whether a folder can be resumed, and from which checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr_decaf.config import Config, flatten
from flwr_decaf.config.comparison import folder_of
from flwr_decaf.config.setting import spelled
from flwr_decaf.messages.checkpoint import Checkpoint, load_checkpoint
from flwr_decaf.runs.folder import RunFolder, holds_runs
from flwr_decaf.runs.lock import check_not_running

# Settings that do not influence the results of a run.
_FREE = {
    "output-dir", "run-name", "resume-from", "checkpoint-every", "trackers", "posts.store",
    "posts.store-timeout", "posts.disclose-adapters",
}  # fmt: skip


def check_resumable(root: Path, runs: Mapping[str, Config], nodes: int | None = None) -> None:
    """Refuse to resume runs that are still running or were started with other settings.

    Parameters
    ----------
    root : Path
        ``resume-from``: the folder of a run, or of a comparison.
    runs : mapping of str to Config
        Name -> current settings of the run.
    nodes : int, optional
        Number of nodes; by default it is not checked.

    Raises
    ------
    ValueError
        If none of the runs was started in this folder, a run is still running, or a run was started
        with another setting or another number of nodes.
    """
    folders = {name: RunFolder(folder_of(root, name, len(runs))) for name in runs}
    started = {name: folder.run for name, folder in folders.items()}
    if not holds_runs(root):
        what = "contains no run" if root.exists() else "does not exist"
        raise ValueError(
            f"resume-from must be the folder of a run; {root} {what}; give another folder, or "
            "start without resume-from"
        )
    if not any(started.values()):
        raise ValueError(
            f"resume-from must be the folder of a run with these settings; {root} contains none "
            f"of {', '.join(runs)}; for a comparison, give the folder of all its runs"
        )
    for folder in folders.values():
        check_not_running(folder)
    defaults = flatten(Config())
    for name, run in started.items():
        now, then = flatten(runs[name]), {**defaults, **run.get("settings", flatten(runs[name]))}
        changed = [key for key in now if key not in _FREE and now[key] != then[key]]
        if changed:
            values = ", ".join(
                f"{key} was {spelled(then[key])} and is {spelled(now[key])}" for key in changed
            )
            raise ValueError(
                f"settings must be those with which {name} was started; {values}; change them "
                "back, or start a new run without resume-from"
            )
    if nodes is not None:
        for folder in folders.values():
            check_nodes(folder, nodes)


def check_nodes(folder: RunFolder, n: int) -> None:
    """Require the number of nodes with which a run was started.

    Raises
    ------
    ValueError
        If it was another one.
    """
    then = folder.run.get("network", {}).get("nodes", n)
    if then != n:
        raise ValueError(
            f"num-supernodes must be the same as when the run was started; it was {then} and is "
            f"{n}; use --nodes {then}"
        )


def record_own_rows(
    folder: RunFolder, rows: Sequence[Mapping[str, Any]], same: bool = True
) -> None:
    """Record what the nodes reported about their own rows.

    Parameters
    ----------
    folder : RunFolder
        Folder of a run.
    rows : sequence of mapping
        The reports, by position.
    same : bool
        Whether a resumed run must have the same rows; by default True.

    Raises
    ------
    ValueError
        If the run was started with other rows.
    """
    now = json.loads(json.dumps(rows))
    then = folder.run.get("own-rows", now) if same else now
    changed = [node for node, (was, is_) in enumerate(zip(then, now, strict=False)) if was != is_]
    if changed or len(then) != len(now):
        raise ValueError(
            "the nodes' own rows must be those with which the run was started; the numbers of "
            f"rows or the classes have changed at node {', '.join(map(str, changed))}; restore "
            "their files, or start a new run without resume-from"
        )
    folder.update(**{"own-rows": now})


def rewind_to_checkpoint(folder: RunFolder) -> Checkpoint | None:
    """Load the last complete checkpoint of a run, and rewind its folder to that round.

    Parameters
    ----------
    folder : RunFolder
        Folder of a run that was started and has not finished.

    Returns
    -------
    Checkpoint or None
        None if the run has to start from the beginning.

    Raises
    ------
    ValueError
        If a file of the folder is damaged.
    """
    checkpoint = load_checkpoint(folder.checkpoints)
    if checkpoint is None:
        folder.rewind(0)
    else:
        rounds = {node: done.server_round for node, done in checkpoint.progress.items()}
        folder.rewind(checkpoint.server_round, rounds)
    return checkpoint
