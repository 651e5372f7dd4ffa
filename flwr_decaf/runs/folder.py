"""The run folder: everything that a run writes, and the only input of a report.

::

    run.json        settings, versions, machine, network, class labels, status
    metrics.jsonl   one line per round, node and phase
    checkpoint/     the last complete rounds of an unfinished run, see messages/checkpoint.py
    adapters/       node-<i>/ (or global/ under FedAvg), each in PEFT's own format

Files are written to a temporary name and renamed, so that a reader never sees a partial file.
``metrics.jsonl`` grows by whole lines. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from flwr.app import MetricRecord, RecordDict

from flwr_decaf.atomic import replacing, write_atomically
from flwr_decaf.messages.metrics import mean_metrics, metrics_of, why_not_kept

_PACKAGES = ("flwr-decaf", "flwr", "torch", "transformers", "peft", "datasets", "ray")


class RunFolder:
    """A folder to write a run to, or to read one from.

    Parameters
    ----------
    path : Path
        Path of the folder, which ``create`` makes. If the folder does not exist, ``run`` and
        ``metrics`` are empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._started = time.monotonic()
        self.listeners: list[Callable[[Sequence[Mapping[str, Any]]], None]] = []

    @classmethod
    def create(cls, path: Path, settings: Mapping[str, Any]) -> RunFolder:
        """Make a new folder and write ``run.json`` with status "running".

        Raises
        ------
        FileExistsError
            If the folder already contains a run, which is never overwritten.
        """
        if (path / "run.json").exists():
            raise FileExistsError(
                f"run-name must name a new run; {path} already contains one; choose another name "
                "or leave it empty"
            )
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        folder.update(
            status="running", started=_now(), settings=dict(settings), environment=_environment()
        )
        return folder

    @property
    def run(self) -> dict[str, Any]:
        """Content of ``run.json``; empty if there is none.

        Raises
        ------
        ValueError
            If the file does not contain a JSON object.
        """
        file = self.path / "run.json"
        return _object_in(file, file.read_text("utf8")) if file.exists() else {}

    def update(self, **values: Any) -> None:
        """Set values in ``run.json``; None removes a key."""
        known = {key: value for key, value in {**self.run, **values}.items() if value is not None}
        text = json.dumps(known, indent=2)
        write_atomically(self.path / "run.json", text + "\n")

    def finish(self, status: str, **values: Any) -> None:
        """Record the final status, "finished", "failed" or "interrupted", and the time.

        The checkpoints of a finished run are deleted.
        """
        self.update(status=status, ended=_now(), **values)
        if status == "finished":
            shutil.rmtree(self.checkpoints, ignore_errors=True)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoint"

    def rewind(self, server_round: int, rounds: Mapping[int, int] | None = None) -> None:
        """Return to the end of a round: delete what was written after it, and set "running".

        A run without a complete round starts over, with the evaluation of round 0.

        Parameters
        ----------
        server_round : int
            The round; 0 to start over.
        rounds : mapping of int to int, optional
            In asynchronous rounds, the last round of each node, whose evaluation is repeated; by
            default all nodes have completed ``server_round``.
        """
        kept = [x for x in self.metrics if server_round and _is_kept(x, server_round, rounds or {})]
        self._started = time.monotonic() - max((line.get("elapsed", 0) for line in kept), default=0)
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(self.path / "metrics.jsonl", text)
        for leftover in (self.path / "adapters", *self.path.glob(".saving-*")):
            shutil.rmtree(leftover, ignore_errors=True)
        resumed = [*self.run.get("resumed", []), {"at": _now(), "after-round": server_round}]
        self.update(status="running", ended=None, error=None, resumed=resumed)

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append lines to ``metrics.jsonl``, and pass them to the listeners."""
        known = list(lines)
        text = "".join(json.dumps(line) + "\n" for line in known)
        with (self.path / "metrics.jsonl").open("a", encoding="utf8") as file:
            file.write(text)
        for listener in self.listeners:
            listener(known)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """All lines of ``metrics.jsonl``, except a last line that is incomplete.

        Raises
        ------
        ValueError
            If a line is not a JSON object.
        """
        file = self.path / "metrics.jsonl"
        lines = file.read_text("utf8").splitlines(keepends=True) if file.exists() else []
        return [_object_in(file, line) for line in lines if line.endswith("\n")]

    def recorder(self, phase: str) -> Callable[[list[RecordDict], str], MetricRecord]:
        """Make a metrics aggregation function for a strategy that also writes a line per node.

        Each record must contain ``partition-id`` and ``server-round``, as those of this package's
        ClientApp do, so the function works both for decentralized strategies and for Flower's
        FedAvg. Every line also contains ``elapsed``, the seconds since this object was created.

        Parameters
        ----------
        phase : str
            "train" or "evaluate".
        """

        def record(records: list[RecordDict], weighted_by_key: str) -> MetricRecord:
            elapsed = round(time.monotonic() - self._started, 3)
            lines = []
            for content in records:
                values: dict[str, Any] = dict(metrics_of(content))
                place = {"node": values.pop("partition-id"), "round": values.pop("server-round")}
                cause = why_not_kept(content)
                values |= {"hidden-states-not-kept": cause} if cause else {}
                lines.append({**place, "phase": phase, "elapsed": elapsed, **values})
            self.append(sorted(lines, key=lambda line: cast(int, line["node"])))
            averaged = mean_metrics(records, weighted_by_key)
            for key in ("partition-id", "server-round", "process"):
                averaged.pop(key, None)
            return averaged

        return record

    def note_failure(self, server_round: int, node: int, cause: str) -> None:
        """Append a line that records which node was missing in a round, and why."""
        line = {"node": node, "round": server_round, "phase": "missing", "cause": cause[:500]}
        self.append([line])

    def save(self, name: str, write: Callable[[Path], object]) -> None:
        """Let ``write`` fill the folder ``adapters/<name>``, which appears only once complete."""
        with replacing(self.path / "adapters" / name) as filled:
            filled.mkdir()
            write(filled)


def holds_runs(root: Path) -> bool:
    """Check whether a folder is a run folder, or that of a comparison with a run in it."""
    return any(root.glob("run.json")) or any(root.glob("*/run.json"))


def _is_kept(line: Mapping[str, Any], server_round: int, rounds: Mapping[int, int]) -> bool:
    last = rounds.get(line.get("node", -1), server_round)
    repeated = bool(rounds) and line["phase"] == "evaluate" and line["round"] == last > 0
    return bool(line["round"] <= last) and not repeated


def _object_in(file: Path, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file} must contain JSON; got {text[:40]!r} ({error}); restore the file, or omit "
            "its folder"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{file} must contain JSON objects; got {text[:40]!r}; restore the file, or omit its "
            "folder"
        )
    return content


def _environment() -> dict[str, Any]:
    return {
        "versions": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
