"""Recomputed batch-norm statistics of a merged model, for which averages would be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flwr_decaf.lora import State


@torch.no_grad()
def with_own_statistics(
    model: nn.Module, state: State, batches: Sequence[Mapping[str, Tensor]]
) -> State:
    """Recompute batch-norm means and variances in one pass over data.

    Parameters
    ----------
    model : nn.Module
        A model, which afterwards has the values of ``state`` and the new statistics.
    state : State
        A state of the model; not modified.
    batches : sequence of mapping
        The arguments of ``model(**batch)``. Each statistic is the mean of its values over the
        batches, which should be of nearly the same size.

    Returns
    -------
    State
        A copy of the state with the new statistics, if there are any.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    model.load_state_dict(state, strict=False)  # batch-norm's counters need not be in it
    with _gathering(model, layers):
        for batch in batches if layers else ():
            model(**batch)
    held = model.state_dict()
    return {name: held[name].to(x.device, copy=True) for name, x in state.items()}


@contextmanager
def _gathering(model: nn.Module, layers: list[_BatchNorm]) -> Iterator[None]:
    # Like torch.optim.swa_utils.update_bn, but with dropout disabled.
    momenta, was_training = [layer.momentum for layer in layers], model.training
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.train()
        layer.momentum = None  # a plain mean over the batches
    try:
        yield
    finally:
        model.train(was_training)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
