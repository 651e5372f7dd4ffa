"""Run folders found, told apart and named for a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.score import score_of

# Settings in which runs differ without being different methods.
_NOT_IN_LABELS = {
    "strategy", "seed", "run-name", "output-dir", "seeds", "sweep", "resume-from",
    "checkpoint-every", "tensorboard",
}  # fmt: skip


def find_runs(paths: Iterable[Path]) -> list[RunFolder]:
    """Find the run folders among folders and in them, each folder's in the order of their start.

    Raises
    ------
    ValueError
        If a folder neither is one nor holds one.
    """
    found: list[RunFolder] = []
    for path in paths:
        here = [
            file.parent for file in (path / "run.json", *path.glob("*/run.json")) if file.exists()
        ]
        if not here:
            raise ValueError(
                f"FOLDERS must be run folders or hold some; {path} does not; see output-dir"
            )
        found += sorted((RunFolder(run) for run in here), key=lambda run: str(run.run["started"]))
    return found


def varied(folders: Sequence[RunFolder]) -> dict[str, list[Any]]:
    """List the settings in which runs differ, seeds and strategies aside.

    Returns
    -------
    dict of str to list
        Short name of the setting -> its value in each run, "nodes" among them.
    """
    settings = [folder.run["settings"] for folder in folders]
    values = {key: [one.get(key) for one in settings] for key in settings[0]}
    values["nodes"] = [folder.run.get("network", {}).get("nodes") for folder in folders]
    differing = {
        key: each
        for key, each in values.items()
        if key not in _NOT_IN_LABELS and len(set(map(str, each))) > 1
    }
    return {_short(key): each for key, each in differing.items()}


def own_settings(folders: Sequence[RunFolder]) -> dict[str, str]:
    """List the settings in which the runs of one of several strategies alone differ, and which.

    Such as TAD-LoRA's phase length: they name that strategy's methods, and no other's.
    """
    strategies = strategies_of(folders)
    owners: dict[str, str] = {}
    for name, values in varied(folders).items():
        pairs = set(zip(strategies, map(str, values), strict=True))
        differing = {s for s in strategies if sum(strategy == s for strategy, _ in pairs) > 1}
        if len(differing) == 1 and len(set(strategies)) > 1:
            owners[name] = differing.pop()
    return owners


def labels_of(folders: Sequence[RunFolder]) -> list[str]:
    """Name each run by its strategy and by the settings in which the runs differ, seeds aside."""
    return methods_of(folders, varied(folders))


def methods_of(folders: Sequence[RunFolder], named: Iterable[str]) -> list[str]:
    """Name each run by its strategy and by some of the settings in which the runs differ."""
    differences, owners = varied(folders), own_settings(folders)
    return [
        ", ".join(
            [
                strategy,
                *(
                    f"{name} {differences[name][place]}"
                    for name in named
                    if owners.get(name, strategy) == strategy
                ),
            ]
        )
        for place, strategy in enumerate(strategies_of(folders))
    ]


def strategies_of(folders: Sequence[RunFolder]) -> list[str]:
    """List the strategy of each run."""
    return [folder.run["settings"]["strategy"] for folder in folders]


def scored(folders: Sequence[RunFolder]) -> list[RunFolder]:
    """Keep the runs that have been evaluated at least once: the others have nothing to show.

    Raises
    ------
    ValueError
        If none has, or if they are scored in different ways.
    """
    scores = {folder.path: score_of(folder.metrics) for folder in folders}
    kept = [folder for folder in folders if scores[folder.path]]
    first_of = {scores[folder.path]: folder.path for folder in reversed(kept)}
    if len(first_of) > 1:
        ways = ", ".join(f"{path} by {score.name}" for score, path in first_of.items() if score)
        raise ValueError(
            f"FOLDERS must hold runs scored in one way; got {ways}; report them one by one"
        )
    if not kept:
        status = folders[0].run.get("status")
        raise ValueError(
            f"FOLDERS must hold an evaluation; {folders[0].path} holds none (status {status}); "
            "wait for the first one, or see its log.txt"
        )
    return kept


def _short(key: str) -> str:
    # "model.name" says more as "model" than as "name"; "lora.rank" more as "rank".
    section, _, name = key.rpartition(".")
    return section if name in ("name", "file") else name
