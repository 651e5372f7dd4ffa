"""The optimizer of local training: one of ``torch.optim``, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from flwr_decaf.text import keyword_arguments

if TYPE_CHECKING:
    from flwr_decaf.config import Train

KEEPING = ("adamw", "adam")  # optimizers whose moments can be kept: see optimizer_state
# These need other gradients, other arguments of step(), or tensors of a certain shape.
_UNSUITABLE = ("optimizer", "lbfgs", "sparseadam", "muon")


def create_optimizer(parameters: Iterable[nn.Parameter], train: Train) -> Optimizer:
    """Create the optimizer that ``train.optimizer`` names.

    Parameters
    ----------
    parameters : iterable of Parameter
        The parameters to train.
    train : config.Train
        ``optimizer``, ``optimizer_arguments``, ``learning_rate`` and ``weight_decay``.

    Raises
    ------
    ValueError
        If ``torch.optim`` has no such optimizer, or it does not accept the arguments.
    """
    kinds = _kinds()
    if train.optimizer not in kinds:
        raise ValueError(
            f"train.optimizer must be one of {', '.join(kinds)}; got {train.optimizer!r}; choose "
            "one of these"
        )
    kind = kinds[train.optimizer]
    known = {"lr": train.learning_rate, "weight_decay": train.weight_decay}
    accepted = inspect.signature(kind).parameters
    given: dict[str, Any] = {key: value for key, value in known.items() if key in accepted}
    try:
        return kind(parameters, **given | keyword_arguments(train.optimizer_arguments))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"train.optimizer-arguments must be arguments of {train.optimizer}, as a JSON object; "
            f"got {train.optimizer_arguments!r} ({error}); see torch.optim"
        ) from error


def check_optimizer(train: Train) -> None:
    """Refuse an optimizer whose settings are wrong, or whose moments cannot be kept.

    Raises
    ------
    ValueError
        If ``create_optimizer`` refuses them, or if ``train.optimizer-state = "kept"`` with an
        optimizer whose state is not just Adam's two moments.
    """
    if train.optimizer_state == "kept" and train.optimizer not in KEEPING:
        raise ValueError(
            f"train.optimizer-state must be fresh with train.optimizer {train.optimizer}; got "
            f"kept; set it to fresh, or the optimizer to one of {', '.join(KEEPING)}"
        )
    optimizer = create_optimizer([nn.Parameter(torch.zeros(1))], train)
    if train.optimizer_state == "kept" and optimizer.defaults.get("amsgrad"):
        raise ValueError(
            "train.optimizer-arguments must not set amsgrad if train.optimizer-state is kept; got "
            f"{train.optimizer_arguments!r}; omit it, or set train.optimizer-state to fresh"
        )


def _kinds() -> dict[str, Callable[..., Optimizer]]:
    classes = (kind for kind in vars(torch.optim).values() if isinstance(kind, type))
    named = {kind.__name__.lower(): kind for kind in classes if issubclass(kind, Optimizer)}
    return {name: named[name] for name in sorted(named) if name not in _UNSUITABLE}
