"""A process that ends Flower's processes if the one that started them is killed.

It runs as a script, so that it imports only psutil.
"""

from __future__ import annotations

import contextlib
import shutil
import sys

import psutil

_STOP_LIMIT = 5.0  # seconds for the processes to end before they are killed


def processes_of(home: str) -> list[psutil.Process]:
    """List the processes that have ``FLWR_HOME=home`` in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it ended, or belongs to another user
            if process.environ().get("FLWR_HOME") == home:
                found.append(process)
    return found


def end_all(home: str) -> None:
    """End the processes of a home, including those that start in the meantime, and delete it."""
    while family := processes_of(home):
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.terminate()
        _, alive = psutil.wait_procs(family, timeout=_STOP_LIMIT)
        for survivor in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
        psutil.wait_procs(alive, timeout=_STOP_LIMIT)
    shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    # The pipe closes after "done", or when the process at its other end ends.
    if sys.stdin.buffer.read() != b"done":
        end_all(sys.argv[1])
