"""Matching of hidden units, so that independently trained models can be averaged (DIMAT).

DIMAT is arXiv 2404.08079. This package has its mathematics, without Flower: groups of units
(``groups``), their correlation on data (``activations``), the best permutation (``assignment``),
and the batch-norm statistics of a merged model (``batch_norm``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from flwr_decaf.lora import State
from flwr_decaf.matching.activations import correlations
from flwr_decaf.matching.assignment import assign
from flwr_decaf.matching.batch_norm import with_own_statistics
from flwr_decaf.matching.groups import Group, find_groups, permuted


class Matching:
    """Aligns models of the same architecture on a node's data.

    Each group of units is matched independently: the correlation of two models' units does not
    depend on the order of the units in other groups, so one pass over the data is enough for all
    groups. The authors match on the training data of all nodes; here, a node uses only its own.

    Parameters
    ----------
    model : nn.Module
        A model of this architecture; its parameters are overwritten.
    groups : list of Group
        The result of ``find_groups``.
    batches : sequence of mapping
        The arguments of ``model(**batch)``.
    resets_first : bool
        Whether to recompute each model's batch-norm statistics on this data before models are
        compared, by default False. After merging, they are recomputed in either case.

    Raises
    ------
    ValueError
        If there is no data.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: list[Group],
        batches: Sequence[Mapping[str, Tensor]],
        resets_first: bool = False,
    ) -> None:
        if not batches:
            raise ValueError(
                "matching must have data to compare units on; got no rows; leave the node out, or "
                "give it rows"
            )
        self._model, self._groups, self._batches = model, groups, batches
        self._resets_first = resets_first

    def align(self, states: Sequence[State]) -> list[State]:
        """Permute the units of all states but the first to match those of the first.

        Parameters
        ----------
        states : sequence of State
            States of whole models, the node's own first.

        Returns
        -------
        list of State
            The first state unchanged, and the others permuted.

        Raises
        ------
        ValueError
            If the states are not those of whole models.
        """
        own, *others = states
        self._check_whole(own)
        device = next(self._model.parameters()).device
        compared = [{name: x.to(device) for name, x in state.items()} for state in states]
        if self._resets_first and self._groups:
            compared = [self.settle(state) for state in compared]
        correlated = correlations(self._model, self._groups, compared, self._batches)
        return [
            own,
            *(
                permuted(state, self._groups, [assign(matrix) for matrix in matrices])
                for state, matrices in zip(others, correlated, strict=True)
            ),
        ]

    def settle(self, state: State) -> State:
        """Recompute a merged model's batch-norm statistics on the data."""
        return with_own_statistics(self._model, state, self._batches)

    def _check_whole(self, state: State) -> None:
        for name in (member.name for group in self._groups for member in group.members):
            if name not in state:
                raise ValueError(
                    f"strategy dimat must have whole models; {name} is not among the arrays; train "
                    "and return the whole state dict, or use decaf for adapters, whose units are "
                    "aligned by their common base"
                )


__all__ = ["Group", "Matching", "find_groups", "permuted"]
