"""The ServerApp: executes the runs that the settings define, one after another."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from flwr_decaf.app import STARTED_AT
from flwr_decaf.app.agreement import agree
from flwr_decaf.app.nodes import Nodes, call_nodes
from flwr_decaf.app.preflight import check
from flwr_decaf.app.row_reports import ask_for_rows, have_own_rows, usable
from flwr_decaf.app.run import run_once
from flwr_decaf.clients.loading import load_test
from flwr_decaf.config import Config, Value, flatten, parse_config
from flwr_decaf.config.comparison import difference, folder_of, runs_of
from flwr_decaf.data.own_rows import RowFacts
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.lock import locked, this_process
from flwr_decaf.runs.resume import (
    check_nodes,
    check_resumable,
    record_own_rows,
    rewind_to_checkpoint,
)
from flwr_decaf.runs.trackers import tracked
from flwr_decaf.strategies.relay.failures import DEAD_ACTOR
from flwr_decaf.strategies.relay.presence import Answers

_log = logging.getLogger("flwr")

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Execute all runs that the settings define, one after another, until one fails."""
    config = parse_config(context.run_config)
    runs = runs_of(config)
    root = _root_of(config, list(runs))
    if config.resume_from:
        check_resumable(root, runs)
    ready: dict[str, Config] = {}  # the runs, with the classes that the nodes have agreed on
    for number, (name, run) in enumerate(runs.items(), start=1):
        _log.info("Run %d of %d: %s", number, len(runs), name)
        folder = RunFolder(folder_of(root, name, len(runs)))
        resumed = bool(config.resume_from and folder.run)
        if resumed and folder.run["status"] == "finished":
            continue
        with _held(folder, {} if resumed else flatten(run)):
            checkpoint = rewind_to_checkpoint(folder) if resumed else None
            if not ready and run.data.name:
                load_test(run.model, run.lora, run.data, run.seed)  # while nodes start
            nodes, answers = call_nodes(grid, run, resumes=checkpoint is not None)
            if resumed:
                check_nodes(folder, nodes.n)
            if not ready or run.topology.is_open:  # others may be there than in the first run
                reports = _reports(grid, difference(run, config), config, nodes, answers)
            if not ready:
                ready = _ready_runs(runs, nodes, reports)
                _record_start_up(folder)
            if reports and not (checkpoint and run.topology.is_open):
                rows = [asdict(report) for report in reports.values()]
                record_own_rows(folder, rows, same=not run.topology.is_open)
            agreed = ready[name]
            with tracked(folder, agreed):
                run_once(grid, nodes, agreed, difference(agreed, config), folder, checkpoint)
    _log.info("Run folder: %s", root)


def _reports(
    grid: Grid, sent: Mapping[str, Value], config: Config, nodes: Nodes, answers: Answers
) -> dict[int, RowFacts]:
    """Ask the nodes about their own rows if they have any."""
    if not have_own_rows(answers.values()):
        return {}
    return usable(ask_for_rows(grid, nodes.ids, sent, config.round_timeout))


def _ready_runs(
    runs: Mapping[str, Config], nodes: Nodes, reports: Mapping[int, RowFacts]
) -> dict[str, Config]:
    """Let the nodes agree on classes, and check every run before the first one."""
    ready = {name: agree(run, reports) if reports else run for name, run in runs.items()}
    trains = STARTED_AT not in os.environ  # otherwise flwr-decaf has tried a step
    for run in ready.values():
        check(run, nodes.n, trains, own_rows=bool(reports))
    return ready


def _record_start_up(folder: RunFolder) -> None:
    if STARTED_AT in os.environ:  # not set by plain flwr run
        taken = time.time() - float(os.environ[STARTED_AT])
        folder.update(**{"start-up-seconds": round(taken, 1)})


def _is_out_of_space(error: BaseException) -> bool:
    # safetensors raises an error of its own, with the number in the text as Rust formats it.
    named = any(f"os error {number})" in str(error) for number in _NO_SPACE)
    return named or (isinstance(error, OSError) and error.errno in _NO_SPACE)


@contextmanager
def _held(folder: RunFolder, settings: Mapping[str, Value]) -> Iterator[None]:
    """Lock a run folder, create it if there are settings, and record how its run ends."""
    with locked(folder):
        if settings:
            RunFolder.create(folder.path, settings)
        folder.update(status="running", process=this_process())
        with _recorded_status(folder):
            yield


@contextmanager
def _recorded_status(folder: RunFolder) -> Iterator[None]:
    """Record in the run folder how the run ended, whether or not it succeeded."""
    try:
        yield
    except BaseException as error:
        cause = f"{type(error).__name__}: {error}"
        if _is_out_of_space(error):
            cause += "; free disk space, and resume the run with resume-from"
        elif DEAD_ACTOR in cause:
            cause += " (--cpus of flwr-decaf run), and resume the run with resume-from"
        try:
            folder.finish("failed", error=cause)
        except OSError as again:  # on a full disk, only the log is left
            _log.error("%s (run.json cannot be written: %s)", cause, again)
        raise
    folder.finish("finished")


def _root_of(config: Config, names: list[str]) -> Path:
    if config.resume_from:
        return Path(config.resume_from).resolve()
    label = names[0] if len(names) == 1 else "comparison"
    name = config.run_name or f"{datetime.now():%Y%m%d-%H%M%S}-{label}"
    return Path(config.output_dir).resolve() / name
