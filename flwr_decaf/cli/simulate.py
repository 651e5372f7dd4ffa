"""The command ``flwr-decaf run``: executes all runs of a settings file.

Modules that load torch or transformers are imported where they are used, so that a wrong setting is
reported immediately and the engine starts during these imports.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from flwr_decaf.app.quick_imports import quick_imports
from flwr_decaf.cli.engine import Engine
from flwr_decaf.cli.flwr_run import flwr_run
from flwr_decaf.cli.keys import keys_for
from flwr_decaf.cli.machine import (
    check_files,
    check_hub,
    check_machine,
    check_matrix_fits,
    warn_of_slow_engine,
)
from flwr_decaf.cli.progress import shown_progress
from flwr_decaf.config import Config, Value, parse_config
from flwr_decaf.config.comparison import folder_of, runs_of
from flwr_decaf.config.files import checked_settings, to_toml
from flwr_decaf.runs.folder import RunFolder, holds_runs
from flwr_decaf.runs.lock import status_of


def simulate(
    conf: Path,
    overrides: Sequence[str],
    nodes: int,
    engine: Engine,
    app: Path,
    console: Console | None,
) -> list[RunFolder]:
    """Execute all runs of a settings file in one ``flwr run``.

    Parameters
    ----------
    conf : Path
        TOML file with settings.
    overrides : sequence of str
        Settings that replace those of the file, as ``key=value``.
    nodes : int
        Number of clients.
    engine : Engine
        Engine that runs the clients.
    app : Path
        Folder of the Flower app.
    console : Console, optional
        Console that shows the progress, while Flower's log goes to log.txt in the run folder. By
        default, Flower's log is shown instead.

    Returns
    -------
    list of RunFolder
        The finished runs, in order.

    Raises
    ------
    ValueError
        If a setting is wrong, or a run cannot succeed; no files are left behind.
    RuntimeError
        If a run failed; the message contains the cause.
    KeyboardInterrupt
        If the user interrupts the run; the message says how to resume it.
    """
    check_matrix_fits(nodes)
    values = checked_settings(conf, overrides, nodes)
    root, runs = _root_of(values, conf), runs_of(parse_config(values))
    check_machine(runs.values(), engine)
    check_files(runs.values())
    check_hub(runs.values())
    warn_of_slow_engine(nodes, engine)
    plan = _Plan(values, root, runs, console)
    if values["resume-from"]:
        from flwr_decaf.runs.resume import check_resumable

        check_resumable(root, runs, nodes)
    if plan.is_finished:
        (console or Console()).print("All runs have finished; nothing is left to resume.")
    else:
        _run(plan, nodes, engine, app)
    return [finished(folder, root) for folder in plan.folders.values()]


@dataclass(frozen=True)
class _Plan:
    """Runs whose settings have been checked, where they write, and who watches them."""

    values: Mapping[str, Value]
    root: Path
    runs: Mapping[str, Config]
    console: Console | None

    @property
    def folders(self) -> dict[str, RunFolder]:
        return {name: RunFolder(folder_of(self.root, name, len(self.runs))) for name in self.runs}

    @property
    def is_finished(self) -> bool:
        return all(folder.run.get("status") == "finished" for folder in self.folders.values())


def _run(plan: _Plan, nodes: int, engine: Engine, app: Path) -> None:
    """Run the engine, and again as long as Ray actors die and there is progress."""
    store = str(plan.values["posts.store"])
    runs, folders = plan.runs.values(), plan.folders.values()
    with _cleaned_up(plan.root, folders), keys_for(runs, nodes, engine.keys) as keys:
        engine = engine._replace(start=partial(engine.start, store=store, keys=keys))
        _run_engine(plan, app, engine, lambda: _check(runs, nodes, engine.node_data))
        before = -1
        # Flower cannot replace a dead Ray actor, so a new engine resumes while there is progress.
        while _lost_an_actor(folders) and _progress(folders) > before:
            before = _progress(folders)
            resumed = replace(plan, values={**plan.values, "resume-from": str(plan.root)})
            _run_engine(resumed, app, engine)


def _run_engine(
    plan: _Plan, app: Path, engine: Engine, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Execute all runs in one ``flwr run``, which reads its settings from a temporary file."""
    with tempfile.TemporaryDirectory() as temporary:
        settings = Path(temporary) / "run.toml"
        settings.write_text(to_toml(plan.values), encoding="utf8")
        if plan.console is None:
            flwr_run(app, settings, engine, meanwhile=meanwhile)
            return
        paths = {name: folder.path for name, folder in plan.folders.items()}
        rounds = {name: run.num_server_rounds for name, run in plan.runs.items()}
        with shown_progress(plan.console, paths, rounds) as watch:
            flwr_run(app, settings, engine, plan.root / "log.txt", watch, meanwhile)


@contextmanager
def _cleaned_up(root: Path, folders: Collection[RunFolder]) -> Iterator[None]:
    """Delete the folder of runs that are refused, and record the status of interrupted runs."""
    fresh = not root.exists()
    try:
        yield
    except ValueError:
        if fresh:
            shutil.rmtree(root, ignore_errors=True)
        raise
    except KeyboardInterrupt as error:
        started = any(folder.run for folder in folders)
        how = f"resume with the same command and --set resume-from={root}"
        raise KeyboardInterrupt(f"interrupted; {how if started else 'no run started'}") from error
    finally:
        close(folders)


def close(folders: Iterable[RunFolder]) -> None:
    """Mark unfinished runs as interrupted if no process is running them."""
    for folder in folders:
        if folder.run.get("status") == "running" and status_of(folder) == "interrupted":
            folder.finish("interrupted")


def _lost_an_actor(folders: Iterable[RunFolder]) -> bool:
    from flwr_decaf.strategies.relay.failures import DEAD_ACTOR  # heavy, and rarely needed

    return any(DEAD_ACTOR in str(folder.run.get("error")) for folder in folders)


def _progress(folders: Iterable[RunFolder]) -> int:
    return sum(len(folder.metrics) for folder in folders)


def _root_of(values: dict[str, Value], conf: Path) -> Path:
    """Choose the folder of the runs, and record it in the settings."""
    if values["resume-from"]:
        root = Path(str(values["resume-from"])).resolve()
        values |= {"resume-from": str(root), "output-dir": str(root.parent), "run-name": root.name}
        return root
    values["run-name"] = values["run-name"] or f"{datetime.now():%Y%m%d-%H%M%S}-{conf.stem}"
    root = Path(str(values["output-dir"])) / str(values["run-name"])
    _check_writable(root)
    if holds_runs(root):
        raise ValueError(
            f"run-name must name a new run; {root} exists; choose another name, or resume that "
            "run with resume-from"
        )
    return root


def _check_writable(folder: Path) -> None:
    there = next(path for path in folder.resolve().parents if path.exists())
    # os.access also detects a read-only file system, to which even root cannot write.
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"output-dir must be a writable folder; {there} is not; choose another")


def _check(runs: Iterable[Config], nodes: int, node_data: str) -> None:
    # The ServerApp checks the same things, but only after the engine has started.
    with quick_imports():
        from flwr_decaf.app.agreement import agree
        from flwr_decaf.app.preflight import check
        from flwr_decaf.app.row_reports import look_into
        from flwr_decaf.clients.loading import forget_task

    for run in runs:
        agreed = agree(run, look_into(run, node_data, nodes)) if node_data else run
        check(agreed, nodes, own_rows=bool(node_data))
    forget_task()  # frees memory: from here on, only the nodes need the model


def finished(folder: RunFolder, root: Path) -> RunFolder:
    """Return a run's folder if the run has finished.

    Flower exits with status 0 whatever happens, so the run folder decides.

    Raises
    ------
    RuntimeError
        If the run has not finished, with its cause.
    """
    if folder.run.get("status") != "finished":
        log = root / "log.txt"
        stopped = "it stopped without an error (killed, out of memory or disk); use resume-from"
        silent = stopped if folder.run else "it did not start"
        cause = folder.run.get("error", silent)
        where = f"; Flower's log is {log}" if log.exists() else ""
        raise RuntimeError(f"the run {folder.path.name} failed: {cause}{where}")
    return folder
