"""Merging models whose hidden units do not correspond: match them first (DIMAT, arXiv 2404.08079).

The mathematics alone, without Flower: groups of units (``groups``), their correlation on data
(``activations``), the best permutation (``assignment``), batch-norm afterwards (``batch_norm``).
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
    """Aligns models of one architecture to one another on a node's data.

    Each group of units is matched on its own: the correlation of two models' units does not depend
    on how other groups are ordered, so one pass over the data serves them all. The authors match on
    the training data of all nodes; a node has but its own, so that is what is used here.

    Parameters
    ----------
    model : nn.Module
        Of the architecture; its values change.
    groups : list of Group
        Of ``find_groups``.
    batches : sequence of mapping
        What ``model(**batch)`` takes.
    resets_first : bool
        Whether models compute with batch-norm statistics recomputed on these data, rather than
        those they come with, when they are compared; by default not. After the merge statistics
        are recomputed in either case.

    Raises
    ------
    ValueError
        If there are no data.
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
                "give it some"
            )
        self._model, self._groups, self._batches = model, groups, batches
        self._resets_first = resets_first

    def align(self, states: Sequence[State]) -> list[State]:
        """Permute the units of all states but the first to match the first's.

        Raises
        ------
        ValueError
            If the states are not those of whole models.
        """
        own, *others = states
        self._check_whole(own)
        device = next(self._model.parameters()).device
        there = [{name: x.to(device) for name, x in state.items()} for state in states]
        if self._resets_first and self._groups:
            there = [self.settle(state) for state in there]
        found = correlations(self._model, self._groups, there, self._batches)
        return [
            own,
            *(
                permuted(state, self._groups, [assign(matrix) for matrix in matrices])
                for state, matrices in zip(others, found, strict=True)
            ),
        ]

    def settle(self, state: State) -> State:
        """Give a model batch-norm statistics of its own on the data, as a merged one has none."""
        return with_own_statistics(self._model, state, self._batches)

    def _check_whole(self, state: State) -> None:
        for name in (member.name for group in self._groups for member in group.members):
            if name not in state:
                raise ValueError(
                    f"strategy dimat must have whole models; {name} is not among the arrays; train "
                    "and return the whole state dict, or take decaf for adapters, whose common "
                    "base keeps units in place"
                )


__all__ = ["Group", "Matching", "find_groups", "permuted"]
