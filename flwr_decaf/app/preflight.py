"""Checks before a run starts: all problems that can be found without training."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from datasets import Dataset
from peft import PeftModel

from flwr_decaf.app.compatibility import check_compatibility
from flwr_decaf.app.strategy_options import strategy_options
from flwr_decaf.clients.loading import load_task, load_test
from flwr_decaf.clients.models.adapter import get_adapter, initialize_adapter, set_adapter
from flwr_decaf.clients.models.checkpointing import checkpoint_gradients
from flwr_decaf.clients.models.hardware import choose_device, is_available
from flwr_decaf.clients.node_matching import check_whole, matching_on
from flwr_decaf.clients.optimizers import check_optimizer
from flwr_decaf.clients.steps import take_steps
from flwr_decaf.clients.tasks.contract import Task
from flwr_decaf.config import Config, Data, Dimat, Lora, Model, Train
from flwr_decaf.config.network import network_of
from flwr_decaf.data.partitions import partition_rows
from flwr_decaf.data.sources import load_rows, skipped_rows
from flwr_decaf.rules import ALIGNED
from flwr_decaf.strategies import STRATEGIES, FedAvg
from flwr_decaf.strategies.relay.asynchronous import check_constant
from flwr_decaf.strategies.relay.checks import check_byzantine
from flwr_decaf.strategies.relay.post_checks import check_scored
from flwr_decaf.strategies.relay.post_office import open_office
from flwr_decaf.text import first_line
from flwr_decaf.topology.participation import check_schedule, read_schedule

_log = logging.getLogger("flwr")
_CHECKED_ROWS = 100


def check(config: Config, n: int, trains: bool = True, own_rows: bool = False) -> None:
    """Refuse a run that cannot succeed, before any training.

    Parameters
    ----------
    config : Config
        Settings of one run.
    n : int
        Number of nodes.
    trains : bool
        Whether to try a training step on one batch; by default True. Once per run is enough.
    own_rows : bool
        Whether nodes have their own rows and have agreed on the classes; by default False.

    Raises
    ------
    ValueError
        If a model, data set or partition is not available on n nodes, LoRA targets match nothing,
        a graph does not exist, or the training step fails.
    """
    strategy = STRATEGIES[config.strategy]
    network = network_of(config, n, getattr(strategy, "own_weights", "metropolis"))
    check_compatibility(config)
    if not issubclass(strategy, FedAvg):
        check_schedule(read_schedule(config.participation), n)
        open_office(config.posts).close()  # tries the store of posts, if there is one
        strategy(**strategy_options(config))  # it refuses settings that exclude one another
        check_scored(config.posts, config.evaluate_average)
        check_constant(config.rounds, network)
        check_byzantine(
            network,
            config.robust.method,
            config.robust.byzantine,
            config.attack.sign_flipping,
            names=("robust.byzantine", "attack.sign-flipping"),
        )
    if not (config.data.name or own_rows):
        raise ValueError(
            "data.name must name a data set, unless each node has its own rows; got ''; name one, "
            "or give every SuperNode a data-path in --node-config"
        )
    check_optimizer(config.train)
    task = load_task(config.model, config.lora, config.data)
    if not own_rows:
        partition_rows(config.data, n, config.seed)
    if config.data.name:
        _warn_of_skipped_rows(config.data.unsplit())
        _try_rows(task, config)
    _check_what_trains(task, config)
    if (
        trains and config.data.name and is_available(config.train.device)
    ):  # else the nodes run on other machines
        _try_step(config.model, config.lora, config.data.unsplit(), config.train, config.seed)


@lru_cache(maxsize=64)  # the runs of a comparison often differ only in their strategy
def _try_step(model: Model, lora: Lora, data: Data, train: Train, seed: int) -> None:
    """Train one step on one batch from the common initialization, and restore the model."""
    task, device = load_task(model, lora, data), choose_device(train.device)
    tried = (
        f"a trial step with train.precision = {train.precision}, model.dtype = {model.dtype} and "
        f"train.learning-rate = {train.learning_rate} on {device.type}"
    )
    with _restored(task):
        initialize_adapter(task.model, seed)
        task.model.to(device)
        try:
            batch = task.collate(list(_first_rows(task, data, seed, train.batch_size)))
            (loss,) = take_steps(task, [batch], train, "AB").losses
        except _FAILURES as error:
            raise ValueError(
                "train.* must be settings with which the model trains; "
                f"{tried} failed ({type(error).__name__}: {first_line(error)}); see "
                "train.precision, model.dtype, train.device and train.batch-size"
            ) from error
        finite = all(bool(x.isfinite().all()) for x in get_adapter(task.model).values())
    if not (math.isfinite(loss) and finite):
        got = f"a loss of {loss}" if finite else f"a loss of {loss} and weights that are not finite"
        raise ValueError(
            f"train.* must be settings with which the model trains; {tried} gave {got}; lower "
            "train.learning-rate, or set model.dtype and train.precision to fp32"
        )


# What PyTorch and the models raise for settings and batches that they do not support.
_FAILURES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@contextmanager
def _restored(task: Task) -> Iterator[None]:
    """Restore the adapter, mode and device of a model after the block, since tasks are shared."""
    model, training = task.model, task.model.training
    home = next(model.parameters()).device
    held = {name: tensor.clone() for name, tensor in get_adapter(model).items()}
    try:
        yield
    finally:
        model.to(home)
        model.train(training)
        set_adapter(model, held)
        torch.cuda.empty_cache()  # the nodes need the memory of the GPU, if there is one


def _check_what_trains(task: Task, config: Config) -> None:
    """Refuse settings for adapters if a whole model is trained, and vice versa."""
    strategy, adapts = STRATEGIES[config.strategy], isinstance(task.model, PeftModel)
    checkpoint_gradients(task.model, config.train.gradient_checkpointing)
    if getattr(strategy, "rule", "") in ALIGNED:
        check_whole(task)
        rows = load_test(config.model, config.lora, config.data, config.seed)
        if len(rows):  # else only the nodes have rows
            matching_on(task, rows.select(range(min(2, len(rows)))), Dimat(), seed=0)
    if config.train.pretrain_epochs and adapts:
        # After pretraining, adapters would not even share the A that DLoRA-FA freezes.
        raise ValueError(
            "train.pretrain-epochs must be 0 for adapters, which train on a common base from a "
            f"common initialization; got {config.train.pretrain_epochs} with model.task = "
            f"{config.model.task}; omit it, or set model.task to cnn"
        )
    if config.local_head and not adapts:
        raise ValueError(
            f"local-head must be false with model.task = {config.model.task}, which trains "
            "the whole model, so that nothing would be mixed; got true; omit it"
        )
    if getattr(strategy, "adapters_only", False) and not adapts:
        raise ValueError(
            f"strategy must be one for whole models with model.task = {config.model.task}; got "
            f"{config.strategy!r}, which is for LoRA factors; use dimat, dlora, fedavg or "
            "local-only"
        )


@lru_cache
def _warn_of_skipped_rows(data: Data) -> None:
    """Warn only once about each data set, however many runs use it."""
    if skipped := skipped_rows(data):
        _log.warning("data.name: %d rows without a text or a label are left out", skipped)


def _try_rows(task: Task, config: Config) -> None:
    """Encode the test rows and the first training rows, to find errors in them."""
    try:
        load_test(config.model, config.lora, config.data, config.seed)
        _first_rows(task, config.data, config.seed, _CHECKED_ROWS)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"data.name must have rows that model.task = {config.model.task} can encode; got "
            f"{type(error).__name__}: {first_line(error)}; see data.text-column, data.prompt, "
            "data.response and data.messages-column"
        ) from error


def _first_rows(task: Task, data: Data, seed: int, count: int) -> Dataset:
    rows = load_rows(data, seed)["train"]
    return task.encode(rows.select(range(min(count, len(rows)))))
