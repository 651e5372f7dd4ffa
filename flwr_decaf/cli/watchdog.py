"""A process beside Flower's that ends them if the one that started them is killed.

Run as a script, so that it imports nothing but psutil.
"""

from __future__ import annotations

import contextlib
import shutil
import sys

import psutil

_STOP_LIMIT = 5.0  # seconds for the processes to go before they are killed


def processes_of(home: str) -> list[psutil.Process]:
    """List the processes that have ``FLWR_HOME=home`` in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # gone by now, or another user's
            if process.environ().get("FLWR_HOME") == home:
                found.append(process)
    return found


def end_all(home: str) -> None:
    """End the processes of a home, those that are started meanwhile as well, and remove it."""
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
    # The pipe closes when its other end does, by "done" or because its process is no more.
    if sys.stdin.buffer.read() != b"done":
        end_all(sys.argv[1])
