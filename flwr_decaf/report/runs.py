"""Finding the run folders of a report, and labelling each by what distinguishes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.lock import status_of
from flwr_decaf.runs.score import score_of

# Runs that differ only in these settings belong to the same method.
_NOT_IN_LABELS = {
    "strategy", "seed", "run-name", "output-dir", "seeds", "sweep", "resume-from",
    "checkpoint-every", "trackers",
}  # fmt: skip


class Snapshot(RunFolder):
    """A run folder at the time of a report: each file is read only once.

    Plots and tables share what was read, and must not change it.
    """

    @cached_property
    def run(self) -> dict[str, Any]:
        """Content of ``run.json``."""
        return super().run

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """All lines of ``metrics.jsonl``."""
        return super().metrics


def snapshots(folders: Iterable[RunFolder]) -> list[RunFolder]:
    """Read run folders once, as they are now."""
    return [each if isinstance(each, Snapshot) else Snapshot(each.path) for each in folders]


def find_runs(paths: Iterable[Path]) -> list[RunFolder]:
    """Find run folders among the given folders and directly below them.

    The runs in each given folder are in the order in which they started. Each is a ``Snapshot``.

    Raises
    ------
    ValueError
        If a folder is not a run folder and contains none.
    """
    found: list[RunFolder] = []
    for path in paths:
        here = [
            file.parent for file in (path / "run.json", *path.glob("*/run.json")) if file.exists()
        ]
        if not here:
            raise ValueError(
                f"FOLDERS must be run folders or contain some; got {path}; see output-dir"
            )
        found += sorted((Snapshot(run) for run in here), key=lambda run: str(run.run["started"]))
    return found


def varied(folders: Sequence[RunFolder]) -> dict[str, list[Any]]:
    """List the settings in which runs differ, other than seed and strategy.

    Returns
    -------
    dict of str to list
        Short name of the setting -> its value in each run. The number of nodes counts as a
        setting, "nodes".
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
    """Map each setting in which only one strategy's runs differ to that strategy.

    An example is TAD-LoRA's phase length. Such settings appear only in the labels of that strategy.
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
    """Label each run with its strategy and the settings in which the runs differ, except seeds."""
    return methods_of(folders, varied(folders))


def methods_of(folders: Sequence[RunFolder], named: Iterable[str]) -> list[str]:
    """Label each run with its strategy and the named settings among those that differ."""
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
    """Select the runs that have been evaluated at least once.

    Raises
    ------
    ValueError
        If none has been, or if their scores differ in kind (accuracy and perplexity).
    """
    scores = {folder.path: score_of(folder.metrics) for folder in folders}
    kept = [folder for folder in folders if scores[folder.path]]
    first_of = {scores[folder.path]: folder.path for folder in reversed(kept)}
    if len(first_of) > 1:
        ways = ", ".join(f"{path} by {score.name}" for score, path in first_of.items() if score)
        raise ValueError(
            f"FOLDERS must contain runs with the same score; got {ways}; report them separately"
        )
    if not kept:
        status = status_of(folders[0])
        raise ValueError(
            f"FOLDERS must contain an evaluated run; {folders[0].path} has none (status "
            f"{status}); wait for the first evaluation, or see log.txt"
        )
    return kept


def _short(key: str) -> str:
    # "model" is clearer than "name" for model.name; "rank" is clear for lora.rank.
    section, _, name = key.rpartition(".")
    return section if name in ("name", "file") else name
