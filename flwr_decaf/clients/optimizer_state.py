"""Moments of AdamW and Adam, kept at a node between rounds (``train.optimizer-state = kept``).

If products are mixed (DeCAF), mixing changes the basis of a layer's factors: ``B A = (B Q^-1) (Q
A)``. The moments are then rotated by the rotation that brings the node's trained factors closest to
the mixed ones (orthogonal Procrustes problem, Schoenemann 1966):

    Q = U V^T,   U S V^T = B~^T B + A~ A^T
    m_A <- Q m_A,   m_B <- m_B Q^T,   v_A <- (Q o Q) v_A,   v_B <- v_B (Q o Q)^T

m are the first moments and v the second ones; o is the elementwise product. First moments are means
of gradients, for which this rotation is exact. Of the second moments, only the diagonal is known,
so their rotation assumes independent entries.

The moments are stored only in ``Context.state``. A node that did not train in the last round, that
lost its state, or whose run was resumed starts afresh and reports ``optimizer-fresh`` = 1.
"""

from __future__ import annotations

from typing import cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from torch import Tensor, nn
from torch.optim import Optimizer

from flwr_decaf.lora import State, compute_dtype, factor_of, pairs_present
from flwr_decaf.messages import records
from flwr_decaf.messages.packing import pack_record, unpack_record

_FIRST, _SECOND, _STEP = "exp_avg", "exp_avg_sq", "step"  # PyTorch's names
_TRAINED = "trained"


class OptimizerState:
    """Moments of a node's optimizer, between two rounds.

    Parameters
    ----------
    state : State
        Moments and, if the basis changes, trained parameters, with names ``KIND PARAMETER``; empty
        if there are none.
    rotates : bool
        Whether mixing changes the basis of the factors.
    """

    def __init__(self, state: State, rotates: bool) -> None:
        self.state = state
        self._rotates = rotates

    @property
    def is_fresh(self) -> bool:
        """Whether there are no moments of the last round."""
        return not self.state

    def restore(self, optimizer: Optimizer, model: nn.Module) -> None:
        """Pass the moments to a new optimizer, in the basis of the model's factors."""
        kept = {kind: _of_kind(self.state, kind) for kind in (_FIRST, _SECOND, _STEP, _TRAINED)}
        if self._rotates and kept[_TRAINED]:
            mixed = {name: p.detach().cpu() for name, p in model.named_parameters()}
            turns = rotations(kept[_TRAINED], mixed)
            kept[_FIRST] = rotated(kept[_FIRST], turns)
            kept[_SECOND] = rotated(kept[_SECOND], {name: q * q for name, q in turns.items()})
        for name, parameter in _trained_by(optimizer, model).items():
            if name in kept[_FIRST]:
                optimizer.state[parameter] = {
                    _STEP: kept[_STEP][name],
                    _FIRST: kept[_FIRST][name].to(parameter.device),
                    _SECOND: kept[_SECOND][name].to(parameter.device),
                }

    def store(self, optimizer: Optimizer, model: nn.Module) -> None:
        """Store the moments of an optimizer; those of frozen parameters are left as they are."""
        for name, parameter in _trained_by(optimizer, model).items():
            if parameter not in optimizer.state:  # the parameter had no gradient in any step
                continue
            held = optimizer.state[parameter] | {_TRAINED: parameter.detach()}
            for kind in (_FIRST, _SECOND, _STEP, *([_TRAINED] * self._rotates)):
                self.state[f"{kind} {name}"] = held[kind].detach().cpu().clone()

    def keep(self, context: Context, server_round: int, settings: str) -> None:
        """Keep the moments in ``Context.state``, for the next round of the same run."""
        context.state[records.OPTIMIZER] = pack_record(self.state)
        context.state[records.OPTIMIZER_ROUND] = ConfigRecord(
            {"server-round": server_round, "settings": settings}
        )


def kept_by(context: Context, server_round: int, settings: str, rotates: bool) -> OptimizerState:
    """Return the moments that a node kept in the last round of a run, if any.

    Parameters
    ----------
    context : Context
        The node's context.
    server_round : int
        The current round.
    settings : str
        Settings that distinguish the run from others on the same nodes.
    rotates : bool
        As in ``OptimizerState``.
    """
    stamp = cast(ConfigRecord, context.state.get(records.OPTIMIZER_ROUND, ConfigRecord()))
    if dict(stamp) != {"server-round": server_round - 1, "settings": settings}:
        return OptimizerState({}, rotates)
    return OptimizerState(
        unpack_record(cast(ArrayRecord, context.state[records.OPTIMIZER])), rotates
    )


def rotations(trained: State, mixed: State) -> State:
    """Compute each layer's rotation that brings its trained factors closest to the mixed ones.

    Parameters
    ----------
    trained, mixed : State
        Factors before and after mixing.

    Returns
    -------
    State
        Q of shape (rank, rank), by the names of both factors of a layer.
    """
    turns = {}
    for a, b in pairs_present(trained):
        precise = compute_dtype(trained[a].dtype)
        new_a, new_b, old_a, old_b = (
            state[name].flatten(1).to(precise) for state in (mixed, trained) for name in (a, b)
        )
        u, _, vh = torch.linalg.svd(new_b.T @ old_b + new_a @ old_a.T)
        turns[a] = u @ vh
        turns[b] = turns[a]
    return turns


def rotated(state: State, turns: State) -> State:
    """Rotate factors: ``Q A`` and ``B Q^T``; tensors without a Q are returned as they are."""

    def turned(name: str, x: Tensor) -> Tensor:
        if name not in turns:
            return x
        flat, q = x.flatten(1), turns[name].to(x.dtype)
        return (q @ flat if factor_of(name) == "A" else flat @ q.T).reshape(x.shape)

    return {name: turned(name, x) for name, x in state.items()}


def _of_kind(kept: State, kind: str) -> State:
    return {name.split(" ", 1)[1]: x for name, x in kept.items() if name.split(" ", 1)[0] == kind}


def _trained_by(optimizer: Optimizer, model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a model that an optimizer trains, by name."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {name: p for name, p in model.named_parameters() if id(p) in trained}
