"""Progress of runs, read from their folders: a live bar in a terminal, otherwise plain lines."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.score import score_of

_CHECKS = "Loading and checking the model and the data while Flower starts"


@dataclass(frozen=True)
class RunProgress:
    """Progress of a comparison.

    Attributes
    ----------
    name : str
        Name of the current run.
    number, count : int
        Number of the current run, from 1, and the number of runs.
    server_round, rounds : int
        Number of rounds trained in the current run, and the number of its rounds.
    stage : str
        What is happening before the end of round 1; empty afterwards.
    score : str
        Name and mean over the nodes of the last score; empty before the first evaluation.
    evaluated : int
        Round of that evaluation.
    share : float
        Fraction of all rounds of all runs that have been trained.
    """

    name: str
    number: int
    count: int
    server_round: int
    rounds: int
    stage: str
    score: str
    evaluated: int
    share: float

    def __str__(self) -> str:
        score = f", mean {self.score} after round {self.evaluated}" if self.score else ""
        run = f"run {self.number} of {self.count}, " if self.count > 1 else ""
        done = self.stage or f"round {self.server_round} of {self.rounds}"
        return f"{run}{self.name}: {done}{score}"


def read_progress(paths: Mapping[str, Path], rounds: Mapping[str, int]) -> RunProgress:
    """Read the progress of some runs.

    Parameters
    ----------
    paths : mapping of str to Path
        Run folders by name, in the order of the runs. Runs that have not started need no folder.
    rounds : mapping of str to int
        Number of rounds of each run.
    """
    started = [name for name, path in paths.items() if (path / "run.json").exists()]
    name = started[-1] if started else next(iter(paths))
    lines = RunFolder(paths[name]).metrics
    trained = max((line["round"] for line in lines if line["phase"] == "train"), default=0)
    last, score = _last_score(lines)
    before = sum(rounds[earlier] for earlier in started[:-1])
    return RunProgress(
        name=name,
        number=max(len(started), 1),
        count=len(paths),
        server_round=trained,
        rounds=rounds[name],
        stage="" if trained else _stage(started, lines),
        score=score,
        evaluated=last,
        share=(before + trained) / sum(rounds.values()),
    )


def _stage(started: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> str:
    if not started:
        return "starting Flower, its actors and the ServerApp"
    return "training round 1" if lines else "loading the model on the nodes, initial evaluation"


def _last_score(lines: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    score = score_of(lines)
    if score is None:
        return 0, ""
    scored = [line for line in lines if score.name in line]
    last = max(line["round"] for line in scored)
    mean = statistics.fmean(line[score.name] for line in scored if line["round"] == last)
    return last, f"{score.name} {mean:.3f}"


@contextmanager
def shown_progress(
    console: Console, paths: Mapping[str, Path], rounds: Mapping[str, int]
) -> Iterator[Callable[[], None]]:
    """Show progress while the block runs.

    Yields
    ------
    callable
        Function that reads the folders and shows new progress, to be called regularly.
    """
    if not console.is_terminal:
        yield plain_lines(console, paths, rounds)
        return
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(),
        TimeElapsedColumn(), TextColumn("elapsed,"), TimeRemainingColumn(), TextColumn("left"),
    )  # fmt: skip
    with Progress(*columns, console=console, speed_estimate_period=600) as bar:
        task = bar.add_task(_CHECKS, total=1.0)

        def look() -> None:
            now = read_progress(paths, rounds)
            bar.update(task, description=str(now), completed=now.share)

        yield look
        look()


def plain_lines(
    console: Console, paths: Mapping[str, Path], rounds: Mapping[str, int]
) -> Callable[[], None]:
    """Make a function that prints a line when the runs have advanced, for logs and pipes."""
    started, printed, done = time.monotonic(), "", read_progress(paths, rounds).share
    console.print(f"[  0.0 min] {_CHECKS}", markup=False, highlight=False, soft_wrap=True)

    def look() -> None:
        nonlocal printed
        now = read_progress(paths, rounds)
        if str(now) == printed:
            return
        printed = str(now)
        minutes = (time.monotonic() - started) / 60
        gained = now.share - done  # excludes what was done before the run was resumed
        left = f"; {minutes / gained * (1 - now.share):.0f} min left" if gained > 0 else ""
        left = "; finishing" if now.share == 1 else left
        line = f"[{minutes:5.1f} min] {printed}{left}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    return look
