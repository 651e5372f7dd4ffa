"""The lock of a run folder: only one process at a time may write to it.

The lock is one of the operating system on the file ``.lock``. It is released when the process ends,
even if it is killed. ``run.json`` names the process and its machine. Machines that share the folder
may not see each other's locks, so an unfinished run of another machine counts as running until the
file ``.lock`` is deleted.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from filelock import FileLock, Timeout

from flwr_decaf.runs.folder import RunFolder

_log = logging.getLogger("flwr")
_PATIENCE = 5.0  # seconds; reading the status of a folder locks it briefly


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Hold the lock of a run folder, which need not exist yet.

    If a process ended without finishing its run, its lock is taken over with a warning.

    Raises
    ------
    ValueError
        If another process is running the run; the message contains its id.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    _check_machine(folder)
    try:
        with FileLock(folder.path / ".lock", timeout=_PATIENCE):
            if folder.run.get("status") == "running":
                _log.warning("%s was left unfinished by %s", folder.path, _holder_of(folder))
            yield
    except Timeout as error:
        raise ValueError(_refusal(folder)) from error


def this_process() -> dict[str, Any]:
    """Describe this process for ``run.json``."""
    return {"id": os.getpid(), "host": platform.node()}


def check_not_running(folder: RunFolder) -> None:
    """Refuse a run folder that another process writes to.

    Raises
    ------
    ValueError
        If another process is running the run; the message contains its id and what to do.
    """
    _check_machine(folder)
    if _is_held(folder):
        raise ValueError(_refusal(folder))


def status_of(folder: RunFolder) -> str:
    """Return the status of a run: "running", "finished", "failed" or "interrupted".

    A run whose process was killed is "interrupted", whatever ``run.json`` says.
    """
    status = str(folder.run.get("status"))
    return "interrupted" if status == "running" and not _is_held(folder) else status


def _is_held(folder: RunFolder) -> bool:
    file = folder.path / ".lock"
    if not file.exists():
        return False
    if _is_unfinished_elsewhere(folder):
        return True
    try:
        with FileLock(file, timeout=0):
            return False
    except (Timeout, OSError):  # without write permission, run.json decides
        return True


def _is_unfinished_elsewhere(folder: RunFolder) -> bool:
    run, here = folder.run, platform.node()
    return run.get("status") == "running" and run.get("process", {}).get("host", here) != here


def _check_machine(folder: RunFolder) -> None:
    if (folder.path / ".lock").exists() and _is_unfinished_elsewhere(folder):
        raise ValueError(
            f"resume-from must be a run that is not running; {folder.path} was started by "
            f"{_holder_of(folder)} and has not ended; end that process, or, if it no longer "
            f"exists, delete {folder.path / '.lock'}"
        )


def _refusal(folder: RunFolder) -> str:
    return (
        f"only one process may write to a run folder; {_holder_of(folder)} is running "
        f"{folder.path}; wait until it has finished, or end it and resume the run"
    )


def _holder_of(folder: RunFolder) -> str:
    process = folder.run.get("process", {})
    return f"process {process.get('id', '(unknown)')} on {process.get('host', 'this machine')}"
