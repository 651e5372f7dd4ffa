"""Progress of runs, read from their run folders: a live bar in a terminal, else plain lines."""

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


@dataclass(frozen=True)
class Standing:
    """How far a comparison has come.

    Attributes
    ----------
    name : str
        Of the run in progress.
    number, count : int
        Its place, from 1, among how many.
    server_round, rounds : int
        Rounds trained, of how many.
    score : str
        Mean over the nodes in the last evaluation, with its name; empty before it.
    evaluated : int
        Round of that evaluation.
    share : float
        Share of all rounds of all runs that have been trained.
    """

    name: str
    number: int
    count: int
    server_round: int
    rounds: int
    score: str
    evaluated: int
    share: float

    def __str__(self) -> str:
        score = f", mean {self.score} after round {self.evaluated}" if self.score else ""
        run = f"run {self.number} of {self.count}, " if self.count > 1 else ""
        return f"{run}{self.name}: round {self.server_round} of {self.rounds}{score}"


def standing(paths: Mapping[str, Path], rounds: Mapping[str, int]) -> Standing:
    """Read how far the runs have come.

    Parameters
    ----------
    paths : mapping of str to Path
        Run folders by name, in the order of the runs; those not begun need not exist.
    rounds : mapping of str to int
        Rounds of each.
    """
    begun = [name for name, path in paths.items() if (path / "run.json").exists()]
    name = begun[-1] if begun else next(iter(paths))
    lines = RunFolder(paths[name]).metrics
    trained = max((line["round"] for line in lines if line["phase"] == "train"), default=0)
    last, score = _last_score(lines)
    before = sum(rounds[earlier] for earlier in begun[:-1])
    return Standing(
        name=name,
        number=max(len(begun), 1),
        count=len(paths),
        server_round=trained,
        rounds=rounds[name],
        score=score,
        evaluated=last,
        share=(before + trained) / sum(rounds.values()),
    )


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
        To be called every now and then; it looks at the folders and shows what is new.
    """
    if not console.is_terminal:
        yield plain_lines(console, paths, rounds)
        return
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(),
        TimeElapsedColumn(), TextColumn("elapsed,"), TimeRemainingColumn(), TextColumn("left"),
    )  # fmt: skip
    with Progress(*columns, console=console, speed_estimate_period=600) as bar:
        task = bar.add_task("starting Flower", total=1.0)

        def look() -> None:
            now = standing(paths, rounds)
            bar.update(task, description=str(now), completed=now.share)

        yield look
        look()


def plain_lines(
    console: Console, paths: Mapping[str, Path], rounds: Mapping[str, int]
) -> Callable[[], None]:
    """Make a function that prints a line when the runs have advanced, for logs and pipes."""
    started, said, done = time.monotonic(), "", standing(paths, rounds).share

    def look() -> None:
        nonlocal said
        now = standing(paths, rounds)
        if str(now) == said:
            return
        said = str(now)
        minutes = (time.monotonic() - started) / 60
        gained = now.share - done  # what a resumed run had done before took none of the minutes
        left = f"{minutes / gained * (1 - now.share):.0f} min left" if gained > 0 else "starting"
        left = "finishing" if now.share == 1 else left
        line = f"[{minutes:5.1f} min] {said}; {left}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    return look
