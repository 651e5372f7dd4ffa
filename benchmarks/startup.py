"""The seconds from a command to the first training step, and those of imports.

    python -m benchmarks.startup

Alternately measures ``flwr-decaf run`` (which also checks model, data and network) and a manual
``flwr run`` on its own SuperLink, with ten nodes and one step of MiniLM. The first training step
has ended when ``metrics.jsonl`` contains the first line of a train round.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.measure import busy_cores, report, time_alternately
from flwr_decaf.cli.engine import superlink
from flwr_decaf.cli.processes import end, script
from flwr_decaf.config.files import checked_settings, to_toml

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf" / "methods.toml"
SETTINGS = [
    "strategy=decaf", "seeds=", "sweep=", "evaluate-every=0", "num-server-rounds=1",
    "train.local-steps=1",
]  # fmt: skip
NODES, LIMIT = 10, 600
IMPORTS = {
    "import flwr_decaf": [sys.executable, "-c", "import flwr_decaf"],
    "flwr-decaf --help": [script("flwr-decaf"), "--help"],
    "flwr --help": [script("flwr"), "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import torch, transformers, peft": [sys.executable, "-c", "import torch, transformers, peft"],
    "import flwr_decaf.app.client_app": [sys.executable, "-c", "import flwr_decaf.app.client_app"],
}


def by_flwr_decaf() -> float:
    """Time ``flwr-decaf run`` up to the first training step."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as output:
        command = [script("flwr-decaf"), "run", str(CONF), "--nodes", str(NODES)]
        chosen = [*SETTINGS, f"output-dir={output}", "run-name=r"]
        command += [word for setting in chosen for word in ("--set", setting)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            return _await_training(Path(output) / "r", process) - started
        finally:
            end(process)


def by_flwr() -> float:
    """Time a SuperLink and ``flwr run`` in the project's folder up to the first training step."""
    with tempfile.TemporaryDirectory() as output, tempfile.TemporaryDirectory() as home:
        settings = Path(output) / "run.toml"
        values = checked_settings(CONF, [*SETTINGS, f"output-dir={output}", "run-name=r"], NODES)
        settings.write_text(to_toml(values), encoding="utf8")
        federation = f"num-supernodes={NODES} client-resources-num-cpus=1"
        started = time.perf_counter()
        with superlink(Path(home), "--simulation") as env:
            command = [script("flwr"), "run", str(ROOT), "local", "--stream", "--run-config"]
            command += [str(settings), "--federation-config", federation]
            process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
            try:
                return _await_training(Path(output) / "r", process) - started
            finally:
                process.terminate()


def _await_training(folder: Path, process: subprocess.Popen[bytes]) -> float:
    file, deadline = folder / "metrics.jsonl", time.monotonic() + LIMIT
    while not (file.exists() and '"phase": "train"' in file.read_text("utf8")):
        if time.monotonic() > deadline or process.poll():
            raise RuntimeError(f"no training step in {folder}")
        time.sleep(0.05)
    return time.perf_counter()


def main() -> None:
    """Measure both commands alternately, twice, and the imports."""
    busy = busy_cores()
    times: dict[str, list[float]] = {"flwr-decaf run": [], "flwr run": []}
    for _ in range(2):
        times["flwr-decaf run"].append(by_flwr_decaf())
        times["flwr run"].append(by_flwr())
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    imports = time_alternately(
        {name: partial(subprocess.run, command, **quiet) for name, command in IMPORTS.items()},
        repeats=3,
    )
    seconds = {name: statistics.median(values) for name, values in times.items()} | imports
    rows = [{"what": name, "seconds": taken} for name, taken in seconds.items()]
    report("startup", "Seconds to the first training step, and for imports", rows, busy)


if __name__ == "__main__":
    main()
