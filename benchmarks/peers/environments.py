"""An environment for each framework, in build/peers, with the PyTorch of this project."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# p2pfl cannot be imported without its extra dp, or with newer versions of pyarrow and
# huggingface_hub. Its extra torch excludes newer versions of PyTorch, and is not needed.
REQUIREMENTS = {
    "p2pfl": ["p2pfl[dp]==0.4.4", "pyarrow<21", "huggingface_hub<1"],
    "nvflare": ["nvflare==2.9.0"],
}
_LIMIT = 1800  # seconds for an installation


def python_of(name: str) -> Path:
    """Return the interpreter of a framework's environment, which is created if necessary.

    Parameters
    ----------
    name : str
        Key of ``REQUIREMENTS``.

    Raises
    ------
    RuntimeError
        If it cannot be installed; the message is the last line of the error.
    """
    folder = ROOT / "build" / "peers" / name
    python, ready = folder / "bin" / "python", folder / "ready.txt"
    wanted = [*REQUIREMENTS[name], pinned("torch", (ROOT / "constraints.txt").read_text("utf8"))]
    if ready.exists() and ready.read_text("utf8").split() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    print(f"Installing {' and '.join(wanted)} in {folder}", flush=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", *wanted])
    ready.write_text("\n".join(wanted), encoding="utf8")
    return python


def pinned(package: str, constraints: str) -> str:
    """Return the line of a constraints file that gives a package's version."""
    found = re.search(rf"^{re.escape(package)}==\S+", constraints, re.MULTILINE)
    if not found:
        raise ValueError(f"constraints.txt has no version of {package}")
    return found.group()


def last_line(output: str) -> str:
    """Return the last line of a program's output that is not empty."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not installed after {_LIMIT} s") from None
    if done.returncode:
        raise RuntimeError(f"not installed: {last_line(done.stderr)}")
