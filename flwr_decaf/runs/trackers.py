"""Experiment trackers, in addition to metrics.jsonl: TensorBoard, Weights & Biases and MLflow.

A tracker is a function ``(folder, config)`` that makes a context manager. Its value is a function
``(round, scalars)``; at the end, it records whether the run succeeded. A run that is resumed is
written anew, beginning with the metrics that it keeps, so that no round counts twice.

To add a tracker, write such a function, a line in ``registries.TRACKERS``, and an extra.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from flwr_decaf import registries
from flwr_decaf.config import Config, flatten
from flwr_decaf.extras import require_extra
from flwr_decaf.registries import Registry
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.text import split_list

Line = Mapping[str, Any]
Write = Callable[[int, Mapping[str, float]], None]
Tracker = Callable[[RunFolder, Config], AbstractContextManager[Write]]

TRACKERS: Registry[Tracker] = Registry(registries.TRACKERS)
_PROJECT = "flwr-decaf"
_PLACE = ("node", "round", "phase", "elapsed", "process")
_AT_ONCE = 100  # parameters in a request to MLflow


@contextmanager
def tracked(folder: RunFolder, config: Config) -> Iterator[None]:
    """Write what is appended to a run folder to the trackers that ``config.trackers`` names.

    Parameters
    ----------
    folder : RunFolder
        The folder of a run, whose metrics so far are written first.
    config : Config
        Settings of the run.

    Raises
    ------
    ValueError
        If the package of a tracker is not installed.
    """
    names = split_list(config.trackers)
    for name in names:
        require_extra(name, f'trackers = "{name}"')
    with ExitStack() as stack:
        for name in names:
            write = stack.enter_context(TRACKERS[name](folder, config))
            listener = _listener(write)
            for _, lines in groupby(folder.metrics, key=_moment):
                listener(list(lines))
            folder.listeners.append(listener)
        yield


def scalars_of(lines: Sequence[Line]) -> dict[str, float]:
    """Summarize the metrics of the nodes in one round and phase.

    Returns
    -------
    dict of str to float
        ``<phase>/<metric>``, the mean over the nodes, for every metric that all nodes have, and
        ``accuracy-of-nodes/<node>``.
    """
    phase = lines[0]["phase"]
    numbers = [key for key, value in lines[0].items() if isinstance(value, int | float)]
    common = [key for key in numbers if key not in _PLACE and all(key in line for line in lines)]
    means = {f"{phase}/{key}": statistics.fmean(line[key] for line in lines) for key in common}
    accuracies = {
        f"accuracy-of-nodes/{line['node']}": line["accuracy"]
        for line in lines
        if "accuracy" in line and "node" in line
    }
    return means | accuracies


def _listener(write: Write) -> Callable[[Sequence[Line]], None]:
    def listen(lines: Sequence[Line]) -> None:
        if lines and (scalars := scalars_of(lines)):
            write(lines[0]["round"], scalars)

    return listen


def _moment(line: Line) -> tuple[int, str]:
    return line["round"], line["phase"]


@contextmanager
def tensorboard(folder: RunFolder, config: Config) -> Iterator[Write]:
    """Write event files to the folder ``tensorboard`` in the run folder."""
    from torch.utils.tensorboard import SummaryWriter

    path = folder.path / "tensorboard"
    shutil.rmtree(path, ignore_errors=True)
    with SummaryWriter(str(path)) as writer:

        def write(server_round: int, scalars: Mapping[str, float]) -> None:
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, server_round)
            writer.flush()

        yield write


@contextmanager
def wandb(folder: RunFolder, config: Config) -> Iterator[Write]:
    """Write a run of Weights & Biases to the folder ``wandb`` in the run folder.

    Nothing is sent unless ``WANDB_MODE`` is "online"; ``wandb sync`` uploads the folder.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it would be sent even offline
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", _PROJECT),
        name=folder.path.name,
        group=folder.path.parent.name,
        dir=str(folder.path),
        mode=os.environ.get("WANDB_MODE", "offline"),
        config=flatten(config),
        settings=wandb.Settings(console="off", save_code=False, silent=True),
    )
    run.define_metric("*", step_metric="round")
    exit_code = 1
    try:
        yield lambda server_round, scalars: run.log({"round": server_round, **scalars})
        exit_code = 0
    finally:
        run.finish(exit_code=exit_code)


@contextmanager
def mlflow(folder: RunFolder, config: Config) -> Iterator[Write]:
    """Write a run of MLflow to ``MLFLOW_TRACKING_URI``.

    By default, this is the database ``mlflow.db`` in ``config.output_dir``, which all runs share.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    database = Path(config.output_dir).resolve() / "mlflow.db"
    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{database}"))
    experiment = client.get_experiment_by_name(_PROJECT)
    number = experiment.experiment_id if experiment else client.create_experiment(_PROJECT)
    name = f"{folder.path.parent.name}/{folder.path.name}"
    run = client.create_run(number, run_name=name).info.run_id
    parameters = [Param(key, str(value)) for key, value in flatten(config).items()]
    for start in range(0, len(parameters), _AT_ONCE):
        client.log_batch(run, params=parameters[start : start + _AT_ONCE])

    def write(server_round: int, scalars: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, server_round) for key, value in scalars.items()]
        client.log_batch(run, metrics=metrics)

    status = "FAILED"
    try:
        yield write
        status = "FINISHED"
    finally:
        client.set_terminated(run, status)
