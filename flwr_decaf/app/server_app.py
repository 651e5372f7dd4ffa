"""The ServerApp: settings in, one run after another, run folders out."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from flwr_decaf.app import ASKED
from flwr_decaf.app.preflight import check
from flwr_decaf.app.run import run_once
from flwr_decaf.clients.loading import load_test
from flwr_decaf.config import Config, Value, flatten, parse_config
from flwr_decaf.config.comparison import difference, folder_of, runs_of
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.lock import locked, this_process
from flwr_decaf.runs.resume import check_resumable, go_on
from flwr_decaf.strategies.relay.attendance import DEAD_ACTOR
from flwr_decaf.strategies.relay.roll_call import roll_call

_log = logging.getLogger("flwr")

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all that the settings ask for, one after another, until one fails."""
    config = parse_config(context.run_config)
    runs = runs_of(config)
    root = _root_of(config, list(runs))
    if config.resume_from:
        check_resumable(root, runs)
    nodes: list[int] = []
    for number, (name, run) in enumerate(runs.items(), start=1):
        _log.info("Run %d of %d: %s", number, len(runs), name)
        folder = RunFolder(folder_of(root, name, len(runs)))
        begun = bool(config.resume_from and folder.run)
        if begun and folder.run["status"] == "finished":
            continue
        with _begun(folder, {} if begun else flatten(run)):
            if nodes:
                nodes = roll_call(grid)
            else:
                nodes = _ready_nodes(grid, runs.values())
                _tell_start_up(folder)
            checkpoint = go_on(folder, len(nodes)) if begun else None
            run_once(grid, nodes, run, difference(run, config), folder, checkpoint)
    _log.info("Run folder: %s", root)


def _ready_nodes(grid: Grid, runs: Collection[Config]) -> list[int]:
    """Await all nodes, and try every run before the first one starts."""
    first = next(iter(runs))
    load_test(first.model, first.lora, first.data, first.seed)  # while the engine starts them
    nodes = roll_call(grid)
    for run in runs:
        check(run, len(nodes), trains=ASKED not in os.environ)  # flwr-decaf has tried that
    return nodes


def _tell_start_up(folder: RunFolder) -> None:
    if ASKED in os.environ:  # not by plain flwr run
        taken = time.time() - float(os.environ[ASKED])
        folder.update(**{"start-up-seconds": round(taken, 1)})


def _is_out_of_space(error: BaseException) -> bool:
    # safetensors puts the number into its text, in Rust's words.
    told = any(f"os error {number})" in str(error) for number in _NO_SPACE)
    return told or (isinstance(error, OSError) and error.errno in _NO_SPACE)


@contextmanager
def _begun(folder: RunFolder, settings: Mapping[str, Value]) -> Iterator[None]:
    """Hold a run folder, new if there are settings, and write down how its run ends."""
    with locked(folder):
        if settings:
            RunFolder.create(folder.path, settings)
        folder.update(status="running", process=this_process())
        with _status_told(folder):
            yield


@contextmanager
def _status_told(folder: RunFolder) -> Iterator[None]:
    """Write into the run folder how the run ended, however it ends."""
    try:
        yield
    except BaseException as error:
        cause = f"{type(error).__name__}: {error}"
        if _is_out_of_space(error):
            cause += "; make room on the disk, and go on with resume-from"
        elif DEAD_ACTOR in cause:
            cause += " (--cpus of flwr-decaf run), and resume the run with resume-from"
        try:
            folder.finish("failed", error=cause)
        except OSError as again:  # a full disk: then the log alone can tell
            _log.error("%s (which cannot be written to run.json: %s)", cause, again)
        raise
    folder.finish("finished")


def _root_of(config: Config, names: list[str]) -> Path:
    if config.resume_from:
        return Path(config.resume_from).resolve()
    label = names[0] if len(names) == 1 else "comparison"
    name = config.run_name or f"{datetime.now():%Y%m%d-%H%M%S}-{label}"
    return Path(config.output_dir).resolve() / name
