"""Calls that must not take forever."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

TOO_LATE = TimeoutError("it took too long")
_THREADS = 8


def all_within(seconds: float, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run jobs in threads, up to eight at a time, and wait a limited time for all of them.

    A job that hangs keeps its thread, which does not keep the process from ending.

    Parameters
    ----------
    seconds : float
        Time limit of all jobs together.
    jobs : sequence of callable
        Functions without arguments.

    Returns
    -------
    list
        The result of each job, the exception that it raised, or ``TOO_LATE``.

    Examples
    --------
    >>> all_within(9.0, [lambda: 1, lambda: 1 // 0])
    [1, ZeroDivisionError('integer division or modulo by zero')]
    """
    results: list[Any] = [TOO_LATE] * len(jobs)
    waiting = deque(enumerate(jobs))

    def work() -> None:
        while waiting:
            try:
                place, job = waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                results[place] = job()
            except Exception as error:
                results[place] = error

    end = time.monotonic() + seconds
    threads = [threading.Thread(target=work, daemon=True) for _ in jobs[:_THREADS]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0.0))
    waiting.clear()
    return list(results)
